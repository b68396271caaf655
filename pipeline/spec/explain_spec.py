"""What is asked of every image: methods, targets and settings as values, and the cells they come to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.classes.pairs import Pair
from pipeline.engine.forward import PRECISIONS
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.refusal import Refusal, choose
from pipeline.spec.columns import columns_of, refuse_clashes
from pipeline.spec.grammar import Choice, parse, parse_all
from pipeline.spec.plugins import Plugin, load
from pipeline.spec.select import selected
from pipeline.tables import schema
from pipeline.targets import TARGETS
from pipeline.targets.registry import Phrase

NO_TARGET = Choice("none", "none")
CONTROLS = ("fake_cam", "random")


@dataclass(frozen=True)
class ExplainSpec:
    """What is asked of every image, and nothing about where or how fast it is answered.

    `stored` names the metrics that are computed from maps as they are stored, with 8 bits a cell.
    """

    methods: tuple[Choice, ...]
    targets: tuple[Choice, ...]
    activation: str = "softmax"
    precision: str = "fp32"
    map_size: int = 56
    seed: int = 0
    select: str | None = None
    no_store: tuple[str, ...] = ()
    metrics: tuple[Choice, ...] = ()
    plugins: tuple[Plugin, ...] = ()
    stored: frozenset[str] = frozenset()

    @property
    def columns(self) -> dict[str, str | None]:
        """The columns of the metrics table that metrics fill -> which way is better."""
        each = [columns_of(metric) for metric in self.metrics if not METRICS[metric.name].corpus_level]
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

    def pairs(self) -> list[tuple[Choice, Choice]]:
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
    stored: Sequence[Choice] = (),
    **rest,
) -> ExplainSpec:
    """Questions from names as a user writes them. With any metric come the two controls, which show its floor and its trap, and with one
    that takes pixels by the order of the map the share of ties.

    `stored` are metrics of the maps as they are stored.

    Raises:
        Refusal: for an unknown name, setting or value, and for a plugin that cannot be used.
    """
    loaded = load(plugins)
    explained = tuple(map(_with_file_content, parse_all(targets, TARGETS, "target", target_args)))
    scored = *with_ties(parse_all(metrics, METRICS, "metric", metric_args)), *stored
    named = frozenset(metric.alias for metric in stored)
    asked = parse_all(methods, METHODS, "method", method_args)
    spec = ExplainSpec(asked, explained, **rest, plugins=loaded, metrics=scored, stored=named)
    refuse_clashes(spec.metrics)
    if spec.metrics:
        spec = _with_controls(spec)
    choose(spec.activation, ("softmax", "sigmoid"), "activation")
    choose(spec.precision, PRECISIONS, "precision")
    for table in spec.no_store:
        choose(table, ("features", "logits"), "column to leave out")
    if spec.select:
        selected(spec.select, schema.predictions(1, logits=False).empty_table())
    return spec


def _with_file_content(target: Choice) -> Choice:
    """A target with what its file says in place of the file's name: that decides the values, and workers need not reach the file."""
    reads = TARGETS[target.name].reads
    return replace(target, argument=reads(target.argument)) if reads else target


def with_ties(metrics: tuple[Choice, ...], had: Sequence[Choice] = ()) -> tuple[Choice, ...]:
    """Metrics, and `tie_share` beside those that break ties, where it is neither among them nor among those a run has."""
    told = {"tie_share"} & {name for metric in (*metrics, *had) for name in (metric.name, metric.alias)}
    orders = any(METRICS[metric.name].orders for metric in metrics)
    return (*metrics, replace(parse("tie_share", METRICS, "metric"), explicit=False)) if orders and not told else metrics


def _with_controls(spec: ExplainSpec) -> ExplainSpec:
    """The questions with both controls among the methods."""
    named = {method.alias: method.name for method in spec.methods}
    for control in CONTROLS:
        if named.get(control, control) != control:
            raise Refusal(
                f"the method name {control!r} is kept for the control that comes with metrics; give {named[control]} another alias"
            )
    added = [replace(parse(control, METHODS, "method"), explicit=False) for control in CONTROLS if control not in named]
    return replace(spec, methods=(*spec.methods, *added))
