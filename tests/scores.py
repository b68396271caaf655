"""What metrics said of the maps that really ran."""

import pytest

import pipeline
from pipeline.score import score_batch

LABELS = [0, 1, None, 3]


def scored_maps(images, backbone, metrics, method="ramped", target="predicted", labels=LABELS, **how):
    """What really ran through `pipeline.explain`: each map as drawn and its score, image by image and metric by metric, without controls."""
    told, score = [], score_batch.score_map
    patch = pytest.MonkeyPatch()
    patch.setattr(pipeline.spec.explain_spec, "CONTROLS", ())

    def overheard(asked, drawn):
        found = score(asked, drawn)
        if asked.explicit:  # the share of ties comes by itself
            told.append((drawn, found))
        return found

    patch.setattr(score_batch, "score_map", overheard)
    try:
        pipeline.explain(images, labels, backbone, [method], [target], metrics=list(metrics), **how)
    finally:
        patch.undo()
    return told
