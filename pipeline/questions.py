"""What is asked of every image: methods, targets and settings as values, and the cells they come to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from pipeline import backbones, engine
from pipeline.classes.pairs import Pair
from pipeline.engine.batch import explained_by
from pipeline.engine.forward import PRECISIONS
from pipeline.engine.perturbed import refuse
from pipeline.maps.quantise import STORED_BITS
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.plugins import Plugin, code_of, load
from pipeline.refusal import Refusal, choose
from pipeline.requests import Request, parse, parse_all
from pipeline.spec.columns import GROUPS, columns_of, refuse_clashes
from pipeline.tables import schema
from pipeline.tables.identity import digest
from pipeline.targets import TARGETS, Answers, Phrase

NO_TARGET = Request("none", "none")
TABLES_VERSION = 2
DRAWN_VERSION = 2  # raised when maps come to metrics in another way
CONTROLS = ("fake_cam", "random")


@dataclass(frozen=True)
class Questions:
    """What is asked of every image, and nothing about where or how fast it is answered.

    `stored` names the metrics that are computed from maps as they are stored, with 8 bits a cell.
    """

    methods: tuple[Request, ...]
    targets: tuple[Request, ...]
    activation: str = "softmax"
    precision: str = "fp32"
    map_size: int = 56
    seed: int = 0
    select: str | None = None
    no_store: tuple[str, ...] = ()
    metrics: tuple[Request, ...] = ()
    plugins: tuple[Plugin, ...] = ()
    stored: frozenset[str] = frozenset()

    @property
    def columns(self) -> dict[str, str | None]:
        """The columns of the metrics table that metrics fill -> which way is better."""
        each = [columns_of(metric) for metric in self.metrics if not METRICS[metric.name].total]
        return {column: better for columns in each for column, better in columns.items()}

    @property
    def class_pairs(self) -> tuple[Pair, ...]:
        """The pairs of classes that a target asks to tell apart."""
        return next((target.argument for target in self.targets if target.name == "pairs"), ())

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        """The texts that targets name, each once."""
        asked = ((target.argument, target.args, TARGETS[target.name].texts) for target in self.targets)
        named = ((text, settings["templates"]) for argument, settings, texts in asked if texts for text in texts(argument, settings))
        return tuple(dict.fromkeys(named))

    def pairs(self) -> list[tuple[Request, Request]]:
        """Every method with every target it is computed for; class-free methods once, with target `none`."""
        result = []
        for method in self.methods:
            free = METHODS[method.name].class_free
            result += [(method, target) for target in ([NO_TARGET] if free else self.targets) if free or target.name != "none"]
        return result


def build_spec(
    methods: Sequence[str],
    targets: Sequence[str],
    method_args: Sequence[str] = (),
    target_args: Sequence[str] = (),
    metrics: Sequence[str] = (),
    metric_args: Sequence[str] = (),
    plugins: Sequence[str] = (),
    stored: Sequence[Request] = (),
    **rest,
) -> Questions:
    """Questions from names as a user writes them. With any metric come the two controls, which show its floor and its trap, and with one
    that takes pixels by the order of the map the share of ties.

    `stored` are metrics of the maps as they are stored.

    Raises:
        Refusal: for an unknown name, setting or value, and for a plugin that cannot be used.
    """
    loaded = load(plugins)
    explained = tuple(map(_read, parse_all(targets, TARGETS, "target", target_args)))
    scored = *with_ties(parse_all(metrics, METRICS, "metric", metric_args)), *stored
    named = frozenset(metric.alias for metric in stored)
    asked = parse_all(methods, METHODS, "method", method_args)
    questions = Questions(asked, explained, **rest, plugins=loaded, metrics=scored, stored=named)
    refuse_clashes(questions.metrics)
    if questions.metrics:
        questions = _controlled(questions)
    choose(questions.activation, ("softmax", "sigmoid"), "activation")
    choose(questions.precision, PRECISIONS, "precision")
    for table in questions.no_store:
        choose(table, ("features", "logits"), "column to leave out")
    if questions.select:
        selected(questions.select, schema.predictions(1, logits=False).empty_table())
    return questions


def _read(target: Request) -> Request:
    """A target with what its file says in place of the file's name: that decides the values, and workers need not reach the file."""
    reads = TARGETS[target.name].reads
    return replace(target, argument=reads(target.argument)) if reads else target


def with_ties(metrics: tuple[Request, ...], had: Sequence[Request] = ()) -> tuple[Request, ...]:
    """Metrics, and `tie_share` beside those that break ties, where it is neither among them nor among those a run has."""
    told = {"tie_share"} & {name for metric in (*metrics, *had) for name in (metric.name, metric.alias)}
    orders = any(METRICS[metric.name].orders for metric in metrics)
    return (*metrics, replace(parse("tie_share", METRICS, "metric"), explicit=False)) if orders and not told else metrics


def _controlled(questions: Questions) -> Questions:
    """The questions with both controls among the methods."""
    named = {method.alias: method.name for method in questions.methods}
    for control in CONTROLS:
        if named.get(control, control) != control:
            raise Refusal(
                f"the method name {control!r} is kept for the control that comes with metrics; give {named[control]} another alias"
            )
    added = [replace(parse(control, METHODS, "method"), explicit=False) for control in CONTROLS if control not in named]
    return replace(questions, methods=(*questions.methods, *added))


def fitted(questions: Questions, backbone: backbones.Backbone) -> tuple[Questions, list[dict]]:
    """The questions this backbone can answer, and those skipped with the reason.

    Raises:
        Refusal: where a method named explicitly, a target or a setting of a metric does not fit.
    """
    kept, skipped = [], []
    for method in questions.methods:
        reason = engine.misfit(method, backbone, questions.targets)
        if reason and method.explicit:
            raise Refusal(f"method {method.alias!r} does not fit {backbone.name}: {reason}")
        if reason:
            skipped.append({"method": method.alias, "reason": reason})
        else:
            kept.append(method)
    absent = next((text for text, _ in set(questions.phrases) - set(backbone.phrases)), None)
    if absent:
        raise Refusal(f"the loaded {backbone.name} knows no phrase {absent!r}; load it with phrases=, or give the backbone by name")
    questions = replace(questions, targets=tuple(_fit(target, backbone) for target in questions.targets))
    # One made-up answer shows at once what a target refuses: a class that is not there, more references than classes.
    trial = Answers(torch.zeros(1, backbone.num_classes), torch.zeros(1, dtype=torch.long), backbone.class_weights, backbone.phrases)
    for target in questions.targets:
        if not backbone.num_classes and not TARGETS[target.name].texts and target.name != "none":
            raise Refusal(
                f"target {target.alias!r} is about a class, and {backbone.name} has none; give an open_clip backbone --text-classes FILE "
                f"or a target text:<phrase>, another a classifier"
            )
        explained_by(target, trial)
    metrics, unasked = _comparable(questions)
    skipped += unasked
    for metric in metrics:
        refuse(metric, backbone)
    fit = replace(questions, methods=tuple(kept), metrics=metrics)
    if questions.methods and not fit.pairs():
        raise Refusal("nothing to explain: every method asked for needs a target; name one with --targets, for example label")
    return fit, skipped


def _fit(target: Request, backbone: backbones.Backbone) -> Request:
    """A target with what its argument comes to on this backbone: that decides the values."""
    fit = TARGETS[target.name].fit
    return replace(target, argument=fit(target.argument, target.args, backbone.class_weights())) if fit else target


def _comparable(questions: Questions) -> tuple[tuple[Request, ...], list[dict]]:
    """The metrics that can be asked, and those skipped because there are no pairs of classes to ask about."""
    asked = [metric for metric in questions.metrics if METRICS[metric.name].of_pairs]
    files = [target for target in questions.targets if target.name == "pairs"]
    named = next((metric for metric in asked if metric.explicit), None)
    if named and not files:
        raise Refusal(f"metric {named.alias!r} needs to know which classes differ in what: add --targets pairs:FILE")
    if asked and len(files) > 1:
        raise Refusal(
            f"metric {asked[0].alias!r} goes by one file of pairs; {len(files)} are asked for: {', '.join(f.alias for f in files)}"
        )
    skipped = [] if files else asked
    reasons = [{"metric": metric.alias, "reason": "no target pairs:FILE is asked for"} for metric in skipped]
    return tuple(metric for metric in questions.metrics if metric not in skipped), reasons


@dataclass(frozen=True)
class Cell:
    """One answer asked of every task: a table, or one method and target of it, or one metric of these, from the stored map where it is `stored`.

    `identity` leaves out the images.
    """

    table: str
    identity: str
    method: Request | None = None
    target: Request | None = None
    metric: Request | None = None
    stored: bool = False


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


def selected(condition: str, predictions: pa.Table) -> list[str]:
    """Image ids for which the SQL condition over the columns of `predictions` holds.

    Raises:
        Refusal: where the condition is no SQL condition over those columns.
    """
    import duckdb

    with duckdb.connect(config={"enable_external_access": False}) as connection:
        connection.register("predictions", predictions)
        try:
            return [row[0] for row in connection.execute(f"SELECT image_id FROM predictions WHERE ({condition})").fetchall()]
        except duckdb.Error as error:
            columns = ", ".join(predictions.column_names)
            raise Refusal(f"--select {condition!r}: {str(error).splitlines()[0]}; the columns are {columns}") from error
