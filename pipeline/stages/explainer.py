"""A batch of images -> the rows of all outputs: run by an actor on a cluster, and by a notebook.

N images of a task, B of a batch
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import torch

from pipeline import backbones, engine
from pipeline.engine import costs
from pipeline.engine.batch import Batch, explain_targets, target_names
from pipeline.engine.forward import run_forward
from pipeline.families import Undefined
from pipeline.maps.render import reduce
from pipeline.methods import METHODS
from pipeline.refusal import one_line
from pipeline.score.score_batch import Map, MapKey, Maps, ScoredBatch, explained_pairs, score_batch
from pipeline.sources.images import DecodedImages
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.grammar import Choice
from pipeline.spec.output import Output
from pipeline.spec.select import selected
from pipeline.stages import rows
from pipeline.stages.rows import OutputRows
from pipeline.tables import schema
from pipeline.tables.identity import seed_of
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions

log = logging.getLogger(__name__)
CHUNK = {"cpu": 32, "cuda": 256}  # images of a batch: on a GPU as many as there are rows in its passes, see engine.budget
PER_TARGET = ("optimised", "path")  # families that pay for every target; others look once for all of them

MapsOf = Callable[[Sequence[Output], Batch, DecodedImages], Maps]


class Explainer:
    """A backbone on a device with the spec it explains by; holds no state between calls."""

    def __init__(self, backbone: backbones.Backbone, spec: ExplainSpec, device: str = "cpu", batch_size: int | None = None):
        self.device = torch.device(device)
        self.backbone, self.spec = backbone.to(device), spec
        self.batch_size = batch_size or CHUNK.get(self.device.type, CHUNK["cpu"])
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
        """One trunk pass for every output. A batch that fails is halved, until it fits into memory or only the culprit is lost."""
        try:
            self._add_rows(images, results, tally, maps_of)
            return
        except Exception as error:
            if len(images) == 1:
                for output in (output for output in results if output.table != "images"):
                    results[output].fail(images.rows[0], "predict", error, one_line(error))
                return
            log.warning("a batch of %d failed (%s); trying its halves", len(images), one_line(error))
        # only now: the exception held on to the memory of the batch
        for half in images.halves():
            self._explain(half, results, tally, maps_of)

    def _add_rows(self, images: DecodedImages, results: Mapping[Output, OutputRows], tally: Counter, maps_of: MapsOf) -> None:
        outputs = [output for output in results if output.method]
        batch, predictions = self._batch(images, outputs, tally)
        finite = batch.forward.logits.isfinite().all(1).cpu().numpy()
        columns = rows.prediction_columns(batch, predictions)
        chosen = finite & self._select(images, columns)
        # A map is computed once for its own output and all of its metrics, also where one of these is all that is missing.
        maps = maps_of(outputs, batch, images)
        scores = score_batch(outputs, ScoredBatch(batch, predictions, images.rows, chosen, maps), self.spec.class_pairs)
        reduced = cache(lambda method, name: self.reduced(method, maps[MapKey(method, name)]))
        # Nothing is added before everything above is computed: a batch that fails leaves no half of itself behind.
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
        """The maps of one method for one name of a target, an image each.

        Where the method raises, the batch is halved; one that fails on one image is its exception.
        """
        position, output = batch.names.index(name), Output("maps", "", method, target)
        own = [i for i, class_id in enumerate(batch.targets[position].class_id.tolist()) if class_id >= 0]
        if TARGETS[target.name].compared and METHODS[method.name].family in PER_TARGET and len(own) < len(images):
            # Few classes ask for as many maps as the one that asks for most: the others' images are not explained for nothing.
            some = images.at(own)
            maps = self._maps(method, target, name, self._batch(some, [output], batch.tally)[0], some) if own else []
            by_image = dict(zip(own, maps, strict=True))
            return [by_image[i] if i in by_image else Undefined("not asked for") for i in range(len(images))]
        try:
            with costs.timed(batch.tally, method.alias):
                return list(engine.maps(method, batch, position).float().cpu().numpy())
        except Exception as error:
            if len(images) == 1:
                return [error.with_traceback(None)]
        maps = []
        # only now: as above
        for half in images.halves():
            maps += self._maps(method, target, name, self._batch(half, [output], batch.tally)[0], half)
        return maps

    def reduced(self, method: Choice, maps: Sequence[Map]) -> list[Map]:
        """Maps at the size that the tables keep them at: those of pixels averaged down."""
        if METHODS[method.name].grid != "pixels":
            return list(maps)
        side = self.spec.map_size
        return [
            image_map if isinstance(image_map, Exception) else reduce(torch.from_numpy(image_map)[None], side)[0].numpy()
            for image_map in maps
        ]
