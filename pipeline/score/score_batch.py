"""The maps of one batch -> their scores.

B images
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch

from pipeline.classes.pairs import Pair, partners, parts_of
from pipeline.engine import costs
from pipeline.engine.attempts import Attempts
from pipeline.engine.batch import Batch, target_names
from pipeline.engine.perturbed import ScoredMaps, clean_probs, perturb
from pipeline.families import METHODS, METRICS, ClassProbs, Perturbation
from pipeline.score.scoring import Score, score_map
from pipeline.score.views import MapView, PairView
from pipeline.sources.images import ImageRow
from pipeline.spec.grammar import Choice
from pipeline.spec.output import Output
from pipeline.targets.registry import Predictions
from pipeline.targets.rivals import rivals

Map = np.ndarray | Exception  # [h w], or the reason that there is none


class MapKey(NamedTuple):
    """One map of every image: by which method, under which name in the tables, and whether as the tables keep it."""

    method: Choice
    name: str
    stored: bool = False


Maps = Mapping[MapKey, Sequence[Map]]


def explained_pairs(outputs: Sequence[Output]) -> list[tuple[Choice, Choice]]:
    """Each method and target of outputs, once, in their order."""
    return list(dict.fromkeys((output.method, output.target) for output in outputs if output.method and output.target))


class ImageScore(NamedTuple):
    """The score of one image, by its position in the batch; `scope` is the pair of classes where the metric is of pairs."""

    position: int
    target: str
    scope: str
    score: Score


@dataclass(frozen=True)
class ScoredBatch:
    """A batch whose maps are scored: its predictions, the row of each image, whether the image is `chosen` [B], and the maps.

    `attempts` remembers what has never worked.
    """

    batch: Batch
    predictions: Predictions
    rows: Sequence[ImageRow]
    chosen: np.ndarray
    maps: Maps
    attempts: Attempts


def score_batch(outputs: Sequence[Output], scored: ScoredBatch, pairs: Sequence[Pair]) -> dict[Output, list[ImageScore]]:
    """The scores of every output that has a metric, in the order of the images; metrics of one map share its view and passes.

    Parameters:
        pairs: the pairs of classes that metrics of pairs are about.
    """
    scorer = _Scorer(scored, any(METRICS[output.metric.name].needs_network for output in outputs if output.metric))
    scores: dict[Output, list[ImageScore]] = {}
    for output in outputs:
        if not output.metric:
            continue
        with costs.timed(scored.batch.tally, output.metric.name):
            of_pairs = METRICS[output.metric.name].of_pairs
            scores[output] = list(scorer.pair_scores(output, pairs)) if of_pairs else scorer.scores(output)
    return scores


class _Scorer:
    """Scores outputs one after the other; with the probabilities of the images as they are, where any metric asks the network."""

    def __init__(self, scored: ScoredBatch, needs_network: bool):
        self.scored, self.predicted = scored, scored.predictions.predicted.tolist()
        self.classes = scored_classes(scored.predictions) if needs_network and scored.batch.backbone.num_classes else None
        self.probs: Sequence[ClassProbs | None] = [None] * len(scored.rows)
        if self.classes is not None:
            self.probs = clean_probs(scored.batch, self.classes)
        self.views: dict[MapKey, dict[int, MapView]] = {}
        self.of_metric: dict[tuple[MapKey, Choice], list[ImageScore]] = {}

    def scores(self, output: Output) -> list[ImageScore]:
        """A metric of every map that there is to score."""
        assert output.method and output.target and output.metric
        key, metric = MapKey(output.method, output.target.alias, output.stored), output.metric
        if key not in self.views:
            by_image = ((i, self._view(key, i)) for i in range(len(self.scored.rows)))
            self.views[key] = {i: view for i, view in by_image if view}
        if (key, metric) not in self.of_metric:  # its scores and its partials are two outputs
            views = self.views[key]
            self._perturb(key, metric, views)
            self.of_metric[key, metric] = [ImageScore(i, key.name, "all", score_map(metric, view)) for i, view in views.items()]
        return self.of_metric[key, metric]

    def pair_scores(self, output: Output, pairs: Sequence[Pair]) -> Iterator[ImageScore]:
        """A metric of every pair that an image's class belongs to.

        The maps of the target `pairs` are compared two by two, |s_A - s_B|, and that of y_A - y_B stands for itself, as `#finer`;
        any other map is scored as it is.
        """
        assert output.method and output.target and output.metric
        name, batch, by_class = output.target.alias, self.scored.batch, partners(pairs)
        for i, row in enumerate(self.scored.rows):
            own = by_class.get(row.label, ()) if row.label is not None else ()
            views = {alias: self._view(MapKey(output.method, alias, output.stored), i) for alias in target_names(output.target, batch)}
            parts = cache(partial(parts_of, row, batch.backbone.image_size))
            for k, (_, pair) in enumerate(own, 1):
                forms = {name: [name]}
                if output.target.name == "pairs":
                    forms = {name: [f"{name}#own", f"{name}#other_{k}"], f"{name}#finer": [f"{name}#finer_{k}"]}
                for target, names in forms.items():
                    compared = tuple(view for view in map(views.__getitem__, names) if view)
                    if len(compared) == len(names):
                        yield ImageScore(i, target, pair.name, score_map(output.metric, PairView(compared, pair, parts)))

    def _view(self, key: MapKey, i: int) -> MapView | None:
        """One map of one image as metrics see it; None where the image is not chosen, or lacks the class to be explained."""
        scored, batch = self.scored, self.scored.batch
        if not scored.chosen[i] or batch.targets[batch.names.index(key.name)].missing[i]:
            return None
        render = batch.backbone.drawing(METHODS[key.method.name].render(key.method.args))
        return MapView(scored.maps[key][i], render, batch.backbone.image_size, scored.rows[i], self.predicted[i], self.probs[i])

    def _perturb(self, key: MapKey, metric: Choice, views: Mapping[int, MapView]) -> None:
        """Give the views the answers to the perturbations of a metric, where they lack them."""
        if self.classes is None:
            return
        batch = self.scored.batch
        for perturbation in METRICS[metric.name].resolve(metric.args, batch.backbone.image_size).values():
            if all(perturbation in view.responses for view in views.values()):
                continue
            positions = range(len(batch.pixels))
            S = [views[i].S if i in views and views[i].drawable else None for i in positions]
            inside = [views[i].object if i in views else None for i in positions]
            maps = ScoredMaps(key.method, batch.names.index(key.name), S, inside, self.classes)

            name = f"metric {metric.alias} of {key.method.alias} for {key.name}"
            responses = self.scored.attempts(name, len(positions), partial(_respond, perturbation, batch, maps, metric.name))
            for i, view in views.items():
                view.responses[perturbation] = responses[i]


def _respond(perturbation: Perturbation, batch: Batch, maps: ScoredMaps, payer: str, positions: Sequence[int]) -> Sequence:
    """The network's answers to a perturbation of some of the images."""
    if len(positions) < len(maps.S):
        batch, maps = batch.at(positions), maps.at(positions)
    return perturb(perturbation, batch, maps, payer)


def scored_classes(predictions: Predictions) -> torch.Tensor:
    """The classes whose probabilities metrics ask for [B 4]: the label, or the predicted class where there is none; the predicted class;
    two rivals of the first."""
    return torch.cat([predictions.main[:, None], predictions.predicted[:, None], rivals(predictions)], 1)
