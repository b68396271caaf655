"""The cells of one task, in a fixed order."""

from collections.abc import Sequence

from pipeline import backbones
from pipeline.maps.quantise import STORED_BITS
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.spec.cell import Cell
from pipeline.spec.columns import GROUPS
from pipeline.spec.explain_spec import Questions
from pipeline.spec.grammar import Request
from pipeline.spec.plugins import code_of
from pipeline.tables.identity import digest
from pipeline.targets import TARGETS

TABLES_VERSION = 2


DRAWN_VERSION = 2  # raised when maps come to metrics in another way


def cells(questions: Questions, backbone: backbones.Backbone, classes: Sequence[str]) -> list[Cell]:
    """Every cell of one task, in a fixed order."""
    always = {"tables": TABLES_VERSION}
    names = list(classes) or backbone.num_classes
    model = {**always, "model": backbone.name, "backbone": backbone.identity, "precision": questions.precision}
    answers = {**model, "classes": names, "activation": questions.activation}
    shown = {"size": backbone.image_size, "crop": backbone.prepare.crop, "crop_pct": backbone.prepare.crop_pct}
    result = [Cell("images", digest({**always, "kind": "images", "classes": names, **shown}))]
    if "features" not in questions.no_store:
        result.append(Cell("features", digest({**model, "kind": "features"})))
    stored = "logits" not in questions.no_store
    result.append(Cell("predictions", digest({**answers, "kind": "predictions", "logits": stored})))
    for method, target in questions.pairs():
        asked = {
            "kind": "map",
            "method": [method.alias, method.identity(METHODS[method.name].version)],
            "target": [target.alias, target.identity(TARGETS[target.name].version)],
            "map_size": questions.map_size if METHODS[method.name].grid == "pixels" else None,
            "seed": questions.seed if METHODS[method.name].seeded else None,
            "select": questions.select,
            **code_of(questions.plugins, method=method.name),
        }
        result.append(Cell("maps", digest({**answers, **asked}), method, target))
    maps = [cell for cell in result if cell.table == "maps"]
    for cell in maps:
        if cell.target.name == "attributes":
            result.append(Cell("attributes", digest({"kind": "attributes", "map": cell.identity}), cell.method, cell.target))
    # Maps that are there to be compared: other metrics would say the same of many, and cost as much for each.
    return result + [
        each
        for cell in maps
        for metric in questions.metrics
        if not TARGETS[cell.target.name].compared or (cell.target.name == "pairs" and METRICS[metric.name].of_pairs)
        for each in _scoring(cell, metric, questions)
    ]


def _scoring(map: Cell, metric: Request, questions: Questions) -> list[Cell]:
    """The cells of one metric of one map: its numbers, or what it counts, or its numbers and their curves."""
    entry, stored = METRICS[metric.name], metric.alias in questions.stored
    asked = {"kind": "metric", "drawn": DRAWN_VERSION, "map": map.identity, "metric": [metric.alias, metric.identity(entry.version)]}
    asked |= code_of(questions.plugins, metric=metric.name)
    if entry.of_pairs:
        asked["pairs"] = questions.class_pairs
    elif entry.total:
        asked["groups"] = GROUPS
    if entry.seeded:
        asked["seed"] = questions.seed
    if stored:
        asked["bits"] = STORED_BITS
    found = [] if entry.total else [Cell("scores", digest(asked), map.method, map.target, metric, stored)]
    if entry.total or entry.curves:
        counted = asked | {"curves": True} if entry.curves else asked
        found.append(Cell("partials", digest(counted), map.method, map.target, metric, stored))
    return found
