"""The methods, targets, metrics and settings of a job as values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from pipeline.classes.pairs import Pair
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.refusal import Refusal, choose
from pipeline.spec.columns import columns_of, refuse_clashes
from pipeline.spec.grammar import Choice, parse, parse_all
from pipeline.spec.job import Activation, Precision, WideColumn
from pipeline.spec.plugins import Plugin, load
from pipeline.spec.select import selected
from pipeline.tables import schema
from pipeline.targets import TARGETS
from pipeline.targets.registry import Phrase

NO_TARGET = Choice("none", "none")
CONTROLS = ("fake_cam", "random")
Kept = tuple[Sequence[Choice], Sequence[Choice]]  # methods, metrics


@dataclass(frozen=True)
class ExplainSpec:
    """Everything that decides the values of a run but its images and its network; nothing of where or how fast they are computed.

    `stored` are the aliases of the metrics that are computed from maps as they are stored, with 8 bits a cell.
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
        metrics = [metric for metric in self.metrics if not METRICS[metric.name].corpus_level]
        return {column: better for metric in metrics for column, better in columns_of(metric).items()}

    @property
    def class_pairs(self) -> tuple[Pair, ...]:
        """The pairs of classes that a target asks to tell apart."""
        return next((target.argument for target in self.targets if target.name == "pairs"), ())

    @property
    def phrases(self) -> tuple[Phrase, ...]:
        """The texts that targets name, each once."""
        phrases = []
        for target in self.targets:
            texts = TARGETS[target.name].texts
            phrases += [(text, target.args["templates"]) for text in texts(target.argument, target.args)] if texts else []
        return tuple(dict.fromkeys(phrases))

    def pairs(self) -> list[tuple[Choice, Choice]]:
        """Every method with every target it is computed for; class-free methods once, with target `none`."""
        pairs = []
        for method in self.methods:
            targets = [target for target in self.targets if target.name != "none"]
            pairs += [(method, target) for target in ([NO_TARGET] if METHODS[method.name].class_free else targets)]
        return pairs


def build_spec(
    methods: Sequence[str],
    targets: Sequence[str],
    method_args: Sequence[str] = (),
    target_args: Sequence[str] = (),
    metrics: Sequence[str] = (),
    metric_args: Sequence[str] = (),
    plugins: Sequence[str] = (),
    stored: Sequence[Choice] = (),
    kept: Kept = ((), ()),
    **rest,
) -> ExplainSpec:
    """The explain spec of names as a user writes them; `stored` are metrics of the maps as they are stored.

    `kept` are methods and metrics beside them, but for those whose names are among them.

    With any metric come the two controls, which show its floor and its trap, and with one that takes pixels by the order of the map the
    share of ties.

    Raises:
        Refusal: for an unknown name, setting or value, and for a plugin that cannot be used.
    """
    loaded = load(plugins)  # first: names may be theirs
    own = parse_all(methods, METHODS, "method", method_args), parse_all(metrics, METRICS, "metric", metric_args)
    all_methods, all_metrics = (
        (*named, *(choice for choice in more if choice.alias not in {other.alias for other in named}))
        for named, more in zip(own, kept, strict=True)
    )
    spec = ExplainSpec(
        all_methods,
        tuple(map(_with_file_content, parse_all(targets, TARGETS, "target", target_args))),
        **rest,
        plugins=loaded,
        metrics=(*with_ties(all_metrics, stored), *stored),
        stored=frozenset(metric.alias for metric in stored),
    )
    refuse_clashes(spec.metrics)
    if spec.metrics:
        spec = _with_controls(spec)
    choose(spec.activation, get_args(Activation), "activation")
    choose(spec.precision, get_args(Precision), "precision")
    for table in spec.no_store:
        choose(table, get_args(WideColumn), "column to leave out")
    if spec.select:
        selected(spec.select, schema.predictions(1, logits=False).empty_table())
    return spec


def _with_file_content(target: Choice) -> Choice:
    """A target with the content of its file in place of the name: the content decides the values, and workers need not reach the file."""
    reads = TARGETS[target.name].reads
    return replace(target, argument=reads(target.argument)) if reads else target


def with_ties(metrics: tuple[Choice, ...], others: Sequence[Choice] = ()) -> tuple[Choice, ...]:
    """Metrics, and `tie_share` beside those that break ties, where it is neither among them nor among `others`, which a run has."""
    names = {name for metric in (*metrics, *others) for name in (metric.name, metric.alias)}
    if "tie_share" in names or not any(METRICS[metric.name].orders for metric in metrics):
        return metrics
    return (*metrics, replace(parse("tie_share", METRICS, "metric"), explicit=False))


def _with_controls(spec: ExplainSpec) -> ExplainSpec:
    """The explain spec with both controls among the methods.

    Raises:
        Refusal: another method has the alias of a control.
    """
    names = {method.alias: method.name for method in spec.methods}
    for control in CONTROLS:
        if names.get(control, control) != control:
            raise Refusal(
                f"the method name {control!r} is kept for the control that comes with metrics; give {names[control]} another alias"
            )
    added = [replace(parse(control, METHODS, "method"), explicit=False) for control in CONTROLS if control not in names]
    return replace(spec, methods=(*spec.methods, *added))
