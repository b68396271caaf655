"""The stage of a task that scores a published run: its maps come from the tables, with 8 bits a cell, and are not computed again."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.engine.batch import Batch, target_names
from pipeline.maps.quantise import rounded, stored
from pipeline.maps.render import sound
from pipeline.score.score_batch import Map, MapKey, explained_pairs
from pipeline.sources.images import DecodedImages
from pipeline.spec.grammar import Choice
from pipeline.spec.output import Output
from pipeline.stages.explain import Explain, OutputTables
from pipeline.stages.explainer import Explainer
from pipeline.stages.messages import ReadMessage


class NotStored(Exception):
    """The run has no map of this image."""


@dataclass(frozen=True)
class ScoreStored(Explain):
    """Decoded images and stored maps -> scores of the maps as they are stored.

    A map that the run lacks (the controls, where it had no metrics) is computed, and scored as it would come back from the tables.
    """

    def tables(self, message: ReadMessage, outputs: Sequence[Output], tally: Counter) -> OutputTables:
        missing = set(message.task.missing)
        answered = [output for i, output in enumerate(self.outputs) if output.table == "maps" and i not in missing]
        stored_maps = StoredMaps.of(answered, message.stored_maps)

        def maps_of(outputs: Sequence[Output], batch: Batch, images: DecodedImages) -> dict[MapKey, Sequence[Map]]:
            return scored_maps(self.explainer, stored_maps, outputs, batch, images)

        return self.explainer(message.images, outputs, tally, maps_of)


@dataclass(frozen=True)
class StoredMaps:
    """The maps [h w] that a run holds of one task: by the name of the map's method and of its target, then by image."""

    answered: frozenset[tuple[Choice, Choice]]
    by_name: Mapping[tuple[str, str], Mapping[str, np.ndarray]]

    @staticmethod
    def of(outputs: Sequence[Output], table: pa.Table | None) -> "StoredMaps":
        """The maps of outputs that a run holds, from their rows of the table `maps`."""
        by_name: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        for row in table.to_pylist() if table is not None else ():
            by_name.setdefault((row["method"], row["target"]), {})[row["image_id"]] = stored(row)
        return StoredMaps(frozenset(explained_pairs(outputs)), by_name)

    def maps(self, method: Choice, name: str, images: DecodedImages) -> list[Map]:
        """The maps of one method under one name, an image each."""
        by_image = self.by_name.get((method.alias, name), {})
        return [by_image[row.image_id] if row.image_id in by_image else NotStored() for row in images.rows]


def scored_maps(
    explainer: Explainer, stored_maps: StoredMaps, outputs: Sequence[Output], batch: Batch, images: DecodedImages
) -> dict[MapKey, Sequence[Map]]:
    """The maps that outputs of a batch need: first those to be computed, then those that are scored as the tables keep them."""
    answered = stored_maps.answered
    computed = explainer.maps_of([o for o in outputs if not (o.stored and (o.method, o.target) in answered)], batch, images)
    maps = dict(computed)
    for method, target in explained_pairs([output for output in outputs if output.stored]):
        for name in target_names(target, batch):
            if (method, target) in answered:
                maps[MapKey(method, name, True)] = stored_maps.maps(method, name, images)
            else:
                maps[MapKey(method, name, True)] = [
                    _as_stored(image_map) for image_map in explainer.reduced(method, computed[MapKey(method, name)])
                ]
    return maps


def _as_stored(image_map: Map) -> Map:
    """A map as it would come back from the tables; one that they would not hold as it is."""
    return image_map if isinstance(image_map, Exception) or not sound(image_map) else rounded(image_map)
