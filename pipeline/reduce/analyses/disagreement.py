"""How far the methods disagree on an image: 1 minus the mean rank correlation of their maps, two by two (E55).

h w cells
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations

import numpy as np

from pipeline.maps.similarity import standard_ranks
from pipeline.reduce.analyses.images import Image, StoredMap
from pipeline.reduce.analyses.registry import analysis, methods_beside_controls
from pipeline.spec.explain_spec import CONTROLS, ExplainSpec


def _lacks(spec: ExplainSpec) -> str | None:
    return None if methods_beside_controls(spec) > 1 else "it compares methods, and the run has fewer than two beside the controls"


@analysis("class", lacks=_lacks)
def disagreement(images: Iterable[Image]) -> Iterator[dict]:
    """1 minus the mean of Spearman's correlations of every two methods' maps (E55).

    A method without a class stands beside those of every target; controls are left out. Both maps of a pair are drawn on the finer of their
    grids. Where one of them has negative values and the other has none, the positive parts are compared. A constant map has no ranks: pairs
    with it are left out, and without any pair the value is null. Stored maps have 256 levels, so nearly equal cells are ties.
    """
    for image in images:
        for target, maps in by_target(image.maps).items():
            pairs = [*correlations(maps)]
            yield {
                "image_id": image.image_id,
                "model": maps[0].model,
                "target": target,
                "disagreement": 1 - float(np.mean([pair["spearman"] for pair in pairs])) if pairs else None,
                "methods": len(maps),
                "pairs": pairs,
            }


def by_target(maps: Sequence[StoredMap]) -> dict[str, list[StoredMap]]:
    """Target -> the maps of two methods or more that are no controls, by name; those without a class are among each target's."""
    own = sorted((stored for stored in maps if stored.method not in CONTROLS), key=lambda stored: stored.method)
    targets = sorted({stored.target for stored in own} - {"none"}) or ["none"]
    of_targets = {target: [stored for stored in own if stored.target in (target, "none")] for target in targets}
    return {target: of_target for target, of_target in of_targets.items() if len(of_target) > 1}


def correlations(maps: Sequence[StoredMap]) -> Iterator[dict]:
    """The rank correlation of every two maps of which neither is constant, over the cells of the finer grid."""
    ranks = cache(lambda i, size, positive: standard_ranks(np.maximum(maps[i].drawn(size), 0) if positive else maps[i].drawn(size)))
    for i, j in combinations(range(len(maps)), 2):
        a, b = maps[i], maps[j]
        size = max(a.levels.shape, b.levels.shape, key=lambda shape: shape[0] * shape[1])
        positive = (a.low < 0) is not (b.low < 0)
        pair = [ranks(k, size, positive) for k in (i, j) if not maps[k].constant]
        if len(pair) == 2 and pair[0] is not None and pair[1] is not None:
            yield {"a": a.method, "b": b.method, "spearman": float(pair[0] @ pair[1])}
