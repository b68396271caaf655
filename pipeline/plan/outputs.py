"""The outputs of one task, in a fixed order, each with the identity of its values."""

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

TABLES_VERSION = 2  # raised when every table is to be computed again
DRAWN_VERSION = 2  # raised when maps come to metrics in another way


def outputs_of(spec: ExplainSpec, backbone: backbones.Backbone, classes: Sequence[str]) -> list[Output]:
    """Every output of one task, in a fixed order."""
    always = {"tables": TABLES_VERSION}
    names = list(classes) or backbone.num_classes
    model = {**always, "model": backbone.name, "backbone": backbone.identity, "precision": spec.precision}
    answers = {**model, "classes": names, "activation": spec.activation}
    preparation = {"size": backbone.image_size, "crop": backbone.prepare.crop, "crop_pct": backbone.prepare.crop_pct}
    outputs = [Output("images", digest({**always, "kind": "images", "classes": names, **preparation}))]
    if "features" not in spec.no_store:
        outputs.append(Output("features", digest({**model, "kind": "features"})))
    stored = "logits" not in spec.no_store
    outputs.append(Output("predictions", digest({**answers, "kind": "predictions", "logits": stored})))
    for method, target in spec.pairs():
        identity = {
            "kind": "map",
            "method": [method.alias, method.identity(METHODS[method.name])],
            "target": [target.alias, target.identity(TARGETS[target.name])],
            "map_size": spec.map_size if METHODS[method.name].grid == "pixels" else None,
            "seed": spec.seed if METHODS[method.name].seeded else None,
            "select": spec.select,
            **({"seen": backbone.seen} if backbone.seen else {}),
            **code_of(spec.plugins, method=method.name),
        }
        outputs.append(Output("maps", digest({**answers, **identity}), method, target))
    maps = [output for output in outputs if output.table == "maps"]
    for output in maps:
        if output.target and output.target.name == "attributes":
            outputs.append(Output("attributes", digest({"kind": "attributes", "map": output.identity}), output.method, output.target))
    # Maps that are there to be compared: other metrics would say the same of many, and cost as much for each.
    return outputs + [
        scores
        for output in maps
        for metric in spec.metrics
        if _is_scored(output, metric)
        for scores in _metric_outputs(output, metric, spec)
    ]


def _is_scored(map: Output, metric: Choice) -> bool:
    """Whether the metric scores the map: every single map, and of those to be compared the pairs by the metrics of pairs."""
    assert map.target, "a map explains a target"
    return not TARGETS[map.target.name].compared or (map.target.name == "pairs" and METRICS[metric.name].of_pairs)


def _metric_outputs(map: Output, metric: Choice, spec: ExplainSpec) -> list[Output]:
    """The outputs of one metric of one map: its numbers, its counts, or its numbers and their curves."""
    entry, stored = METRICS[metric.name], metric.alias in spec.stored
    identity = {"kind": "metric", "drawn": DRAWN_VERSION, "map": map.identity, "metric": [metric.alias, metric.identity(entry)]}
    identity |= code_of(spec.plugins, metric=metric.name)
    if entry.of_pairs:
        identity["pairs"] = spec.class_pairs
    elif entry.corpus_level:
        identity["groups"] = GROUPS
    if entry.seeded:
        identity["seed"] = spec.seed
    if stored:
        identity["bits"] = STORED_BITS
    outputs = [] if entry.corpus_level else [Output("scores", digest(identity), map.method, map.target, metric, stored)]
    if entry.corpus_level or entry.curves:
        counts = identity | {"curves": True} if entry.curves else identity
        outputs.append(Output("partials", digest(counts), map.method, map.target, metric, stored))
    return outputs
