"""A batch of images -> the rows of all outputs: run by an actor on a cluster, and by a notebook.

N images of a task, B of a batch
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import numpy as np
import pyarrow as pa
import torch

from pipeline import backbones, engine
from pipeline.engine import costs
from pipeline.engine.attempts import Attempts
from pipeline.engine.batch import Batch, explain_targets, target_names
from pipeline.engine.forward import run_forward
from pipeline.families import Undefined
from pipeline.maps.render import reduce
from pipeline.methods import METHODS
from pipeline.refusal import one_line
from pipeline.score.score_batch import ImageScore, Map, MapKey, Maps, ScoredBatch, explained_pairs, score_batch
from pipeline.sources.images import DecodedImages
from pipeline.spec.explain_spec import NO_TARGET, ExplainSpec
from pipeline.spec.grammar import Choice
from pipeline.spec.output import Output
from pipeline.spec.select import selected
from pipeline.stages import rows
from pipeline.stages.rows import OutputRows
from pipeline.tables import schema
from pipeline.tables.identity import seed_of
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions

CHUNK = {"cpu": 32, "cuda": 256}  # images of a batch: on a GPU as many as there are rows in its passes, see engine.budget
PER_TARGET = ("optimised", "path")  # families that pay for every target; others look once for all of them

MapsOf = Callable[[Sequence[Output], Batch, DecodedImages], Maps]


class Explainer:
    """A backbone on a device with the spec it explains by; between calls it remembers what has never worked."""

    def __init__(self, backbone: backbones.Backbone, spec: ExplainSpec, device: str = "cpu", batch_size: int | None = None):
        self.device = torch.device(device)
        self.backbone, self.spec = backbone.to(device), spec
        self.batch_size = batch_size or CHUNK.get(self.device.type, CHUNK["cpu"])
        self.attempts = Attempts()
        self._schemas = rows.schemas_of(backbone, spec)

    def __call__(
        self, images: DecodedImages, outputs: Sequence[Output], tally: Counter | None = None, maps_of: MapsOf | None = None
    ) -> list[tuple[Output, pa.Table, pa.Table]]:
        """Each output with its rows and its errors.

        Parameters:
            tally: the passes of the call are added to it, as in `Batch.tally`.
            maps_of: gives the maps of outputs on a batch; by default `maps_of`, which computes them.
        """
        tally = Counter() if tally is None else tally
        results = {output: OutputRows() for output in outputs}
        for output in outputs:
            if output.table == "images":
                rows.add_images(results[output], images.rows, images.errors)
        if any(output.table != "images" for output in outputs):
            for start in range(0, len(images), self.batch_size):
                self._explain(images[start : start + self.batch_size], results, tally, maps_of or self.maps_of)
        return [
            (output, rows.table_of(result, output, self._schemas[output.table], self.backbone), schema.errors(result.errors))
            for output, result in results.items()
        ]

    def _explain(self, images: DecodedImages, results: Mapping[Output, OutputRows], tally: Counter, maps_of: MapsOf) -> None:
        """Add the rows of a batch, by one trunk pass for every output; of an image that the network fails on, errors."""

        def compute(positions: Sequence[int]) -> list[Callable[[], None] | None]:
            part = images if len(positions) == len(images) else images.at(list(positions))
            return [self._computed(part, results, tally, maps_of), *[None] * (len(part) - 1)]

        for row, add_rows in zip(images.rows, self.attempts("the network", len(images), compute), strict=True):
            if isinstance(add_rows, Exception):
                for output in (output for output in results if output.table != "images"):
                    results[output].fail(row, "predict", add_rows, one_line(add_rows))
            elif add_rows:
                add_rows()

    def _computed(self, images: DecodedImages, results: Mapping[Output, OutputRows], tally: Counter, maps_of: MapsOf) -> Callable[[], None]:
        """Compute everything about a batch; returns the function that adds its rows, so that one that fails leaves no half behind."""
        outputs = [output for output in results if output.method]
        batch, predictions = self._batch(images, outputs, tally)
        finite = batch.forward.logits.isfinite().all(1).cpu().numpy()
        columns = rows.prediction_columns(batch, predictions)
        chosen = finite & self._select(images, columns)
        # A map is computed once for its own output and all of its metrics, also where one of these is all that is missing.
        maps = maps_of(outputs, batch, images)
        scored = ScoredBatch(batch, predictions, images.rows, chosen, maps, self.attempts)
        scores = score_batch(outputs, scored, self.spec.class_pairs)
        return partial(self._add_rows, images, results, scored, columns, finite, scores)

    def _add_rows(
        self,
        images: DecodedImages,
        results: Mapping[Output, OutputRows],
        scored: ScoredBatch,
        columns: Mapping[str, list],
        finite: np.ndarray,
        scores: Mapping[Output, Sequence[ImageScore]],
    ) -> None:
        """Add the rows of a batch to every output."""
        batch, chosen, maps = scored.batch, scored.chosen, scored.maps
        reduced = cache(lambda method, name: self.reduced(method, maps[MapKey(method, name)]))
        for output, into in results.items():
            if output.table in ("features", "predictions"):
                narrow = columns if output.table == "predictions" else {}
                wide = rows.wide_columns(batch, output.table, self.spec)
                rows.add_outputs_of_network(into, images.rows, finite, narrow, wide, self.backbone.name)
            if not (output.method and output.target):
                continue
            if output.table == "maps":
                for name in target_names(output.target, batch):
                    directions = batch.targets[batch.names.index(name)]
                    rows.add_maps(into, output, name, images.rows, chosen, reduced(output.method, name), directions, self.backbone)
            elif output.table == "attributes":
                by_name = {name: reduced(output.method, name) for name in target_names(output.target, batch)}
                rows.add_attributes(into, output, images.rows, chosen, by_name)
            elif output.table == "partials":
                rows.add_partials(into, output, images.rows, scores[output])
            elif output.table == "scores":
                class_id = batch.targets[batch.names.index(output.target.alias)].class_id.tolist()
                rows.add_scores(into, output, images.rows, scores[output], class_id)

    def _select(self, images: DecodedImages, columns: Mapping[str, list]) -> np.ndarray:
        """Whether the user's SQL condition over its prediction keeps each image [B]."""
        if not self.spec.select:
            return np.ones(len(images), dtype=bool)
        ids = [row.image_id for row in images.rows]
        predictions = pa.table({"image_id": ids, **columns})
        return np.isin(ids, selected(self.spec.select, predictions))

    def _batch(self, images: DecodedImages, outputs: Sequence[Output], tally: Counter) -> tuple[Batch, Predictions]:
        """One forward pass of a batch, with the targets of all outputs."""
        with costs.timed(tally, "look"):
            pixels = torch.tensor(images.pixels, device=self.device)
            forward = run_forward(self.backbone, self.backbone.prepare(pixels), self.spec.precision)
        tally["look", "forwards"] += len(pixels)
        labels = torch.tensor([-1 if row.label is None else row.label for row in images.rows], device=self.device)
        logits = forward.logits[:, : self.backbone.num_classes]
        predictions = Predictions(logits, labels, self.backbone.class_weights, self.backbone.phrases)
        targets = dict.fromkeys(output.target for output in outputs if output.target)
        directions = {name: direction for target in targets for name, direction in explain_targets(target, predictions).items()}

        def seeds(name: str) -> list[int]:
            keys = zip(images.rows, images.digests, strict=True)
            return [seed_of(self.spec.seed, name, row.key, digest) for row, digest in keys]

        settings = self.spec.activation, self.spec.precision, self.spec.seed
        return Batch(forward, tuple(directions.values()), pixels, seeds, *settings, tuple(directions), tally), predictions

    def maps_of(self, outputs: Sequence[Output], batch: Batch, images: DecodedImages) -> dict[MapKey, Sequence[Map]]:
        """The maps that outputs need, computed."""
        return {
            MapKey(method, name): self._maps(method, target, name, batch, images)
            for method, target in explained_pairs(outputs)
            for name in target_names(target, batch)
        }

    def _maps(self, method: Choice, target: Choice, name: str, batch: Batch, images: DecodedImages) -> list[Map]:
        """The maps of one method for one name of a target, an image each; where the method fails, its exception."""
        position, output = batch.names.index(name), Output("maps", "", method, target)
        own = [i for i, class_id in enumerate(batch.targets[position].class_id.tolist()) if class_id >= 0]
        if TARGETS[target.name].compared and METHODS[method.name].family in PER_TARGET and len(own) < len(images):
            # Few classes ask for as many maps as the one that asks for most: the others' images are not explained for nothing.
            some = images.at(own)
            maps = self._maps(method, target, name, self._batch(some, [output], batch.tally)[0], some) if own else []
            by_image = dict(zip(own, maps, strict=True))
            return [by_image[i] if i in by_image else Undefined("not asked for") for i in range(len(images))]

        def compute(positions: Sequence[int]) -> list[np.ndarray]:
            part = batch if len(positions) == len(images) else batch.at(positions)
            with costs.timed(batch.tally, method.alias):
                return list(engine.maps(method, part, position).float().cpu().numpy())

        about = "" if target == NO_TARGET else f" for {name}"
        return self.attempts(f"method {method.alias}{about}", len(images), compute)

    def reduced(self, method: Choice, maps: Sequence[Map]) -> list[Map]:
        """Maps at the size that the tables keep them at: those of pixels averaged down."""
        return [_reduced(image_map, self.spec.map_size) if METHODS[method.name].grid == "pixels" else image_map for image_map in maps]


def _reduced(image_map: Map, side: int) -> Map:
    return image_map if isinstance(image_map, Exception) else reduce(torch.from_numpy(image_map)[None], side)[0].numpy()
