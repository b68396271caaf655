"""The cells of one task, in a fixed order."""

from collections.abc import Sequence

from pipeline import backbones
from pipeline.maps.quantise import STORED_BITS
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.spec.columns import GROUPS
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.grammar import Choice
from pipeline.spec.output import Output
from pipeline.spec.plugins import code_of
from pipeline.tables.identity import digest
from pipeline.targets import TARGETS

TABLES_VERSION = 2


DRAWN_VERSION = 2  # raised when maps come to metrics in another way


def outputs_of(spec: ExplainSpec, backbone: backbones.Backbone, classes: Sequence[str]) -> list[Output]:
    """Every cell of one task, in a fixed order."""
    always = {"tables": TABLES_VERSION}
    names = list(classes) or backbone.num_classes
    model = {**always, "model": backbone.name, "backbone": backbone.identity, "precision": spec.precision}
    answers = {**model, "classes": names, "activation": spec.activation}
    shown = {"size": backbone.image_size, "crop": backbone.prepare.crop, "crop_pct": backbone.prepare.crop_pct}
    result = [Output("images", digest({**always, "kind": "images", "classes": names, **shown}))]
    if "features" not in spec.no_store:
        result.append(Output("features", digest({**model, "kind": "features"})))
    stored = "logits" not in spec.no_store
    result.append(Output("predictions", digest({**answers, "kind": "predictions", "logits": stored})))
    for method, target in spec.pairs():
        asked = {
            "kind": "map",
            "method": [method.alias, method.identity(METHODS[method.name].version)],
            "target": [target.alias, target.identity(TARGETS[target.name].version)],
            "map_size": spec.map_size if METHODS[method.name].grid == "pixels" else None,
            "seed": spec.seed if METHODS[method.name].seeded else None,
            "select": spec.select,
            **code_of(spec.plugins, method=method.name),
        }
        result.append(Output("maps", digest({**answers, **asked}), method, target))
    maps = [cell for cell in result if cell.table == "maps"]
    for cell in maps:
        if cell.target.name == "attributes":
            result.append(Output("attributes", digest({"kind": "attributes", "map": cell.identity}), cell.method, cell.target))
    # Maps that are there to be compared: other metrics would say the same of many, and cost as much for each.
    return result + [
        each
        for cell in maps
        for metric in spec.metrics
        if not TARGETS[cell.target.name].compared or (cell.target.name == "pairs" and METRICS[metric.name].of_pairs)
        for each in _metric_outputs(cell, metric, spec)
    ]


def _metric_outputs(map: Output, metric: Choice, spec: ExplainSpec) -> list[Output]:
    """The cells of one metric of one map: its numbers, or what it counts, or its numbers and their curves."""
    entry, stored = METRICS[metric.name], metric.alias in spec.stored
    asked = {"kind": "metric", "drawn": DRAWN_VERSION, "map": map.identity, "metric": [metric.alias, metric.identity(entry.version)]}
    asked |= code_of(spec.plugins, metric=metric.name)
    if entry.of_pairs:
        asked["pairs"] = spec.class_pairs
    elif entry.corpus_level:
        asked["groups"] = GROUPS
    if entry.seeded:
        asked["seed"] = spec.seed
    if stored:
        asked["bits"] = STORED_BITS
    found = [] if entry.corpus_level else [Output("scores", digest(asked), map.method, map.target, metric, stored)]
    if entry.corpus_level or entry.curves:
        counted = asked | {"curves": True} if entry.curves else asked
        found.append(Output("partials", digest(counted), map.method, map.target, metric, stored))
    return found
