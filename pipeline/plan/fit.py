"""An explain spec fitted to a backbone: the methods and metrics that fit it, and the meaning of targets on it."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from pipeline import backbones, engine
from pipeline.engine.batch import explain_targets
from pipeline.engine.perturbed import refuse_metric
from pipeline.metrics import METRICS
from pipeline.refusal import Refusal
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.grammar import Choice
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions


def with_class_sets(spec: ExplainSpec, sets: Mapping[str, tuple[int, ...]]) -> ExplainSpec:
    """The explain spec with the members of its set in every class_set target, so that they are part of the identity of its maps."""
    texts = {name: f"{name}={' '.join(map(str, members))}" for name, members in sets.items()}
    targets = []
    for target in spec.targets:
        if target.name == "class_set" and texts:
            # all of them to `own`, and to a slip of the hand, whose refusal names them
            members = (texts[target.argument],) if target.argument in texts else tuple(sorted(texts.values()))
            target = replace(target, settings=tuple(sorted({**target.args, "sets": members}.items())))
        targets.append(target)
    return replace(spec, targets=tuple(targets))


def refuse_one_logit(backbone: backbones.Backbone, activation: str) -> None:
    """Refuse a network of one class under softmax, which makes 1 of any logit, so that no map, label or change has a meaning.

    A logit y of "is it class 1?" is the two logits -y / 2 and y / 2: their softmax is 1 - sigmoid(y) and sigmoid(y).
    """
    if backbone.num_classes == 1 and activation == "softmax":
        raise Refusal(
            f"{backbone.name} has one class, whose softmax is 1 whatever an image shows; give it two (of a logit y that says class 1: "
            f"torch.cat([-y, y], 1) / 2, whose softmax is sigmoid(y)), or explain the one class as there or not with --activation sigmoid"
        )


def fit_to_backbone(spec: ExplainSpec, backbone: backbones.Backbone) -> tuple[ExplainSpec, list[dict]]:
    """The part of the explain spec that fits this backbone, and the methods and metrics left out, each with the reason.

    Raises:
        Refusal: where a method named explicitly, a target or a setting of a metric does not fit, or softmax does not.
    """
    refuse_one_logit(backbone, spec.activation)
    methods, skipped = [], []
    for method in spec.methods:
        reason = engine.misfit(method, backbone, spec.targets)
        if reason and method.explicit:
            raise Refusal(f"method {method.alias!r} does not fit {backbone.name}: {reason}")
        if reason:
            skipped.append({"method": method.alias, "reason": reason})
        else:
            methods.append(method)
    absent = next((phrase[0] for phrase in spec.phrases if phrase not in backbone.phrases), None)
    if absent:
        raise Refusal(f"the loaded {backbone.name} knows no phrase {absent!r}; load it with phrases=, or give the backbone by name")
    spec = replace(spec, targets=tuple(_fit_target(target, backbone) for target in spec.targets))
    # One made-up prediction shows at once what a target refuses: a class that is not there, more references than classes.
    trial = Predictions(torch.zeros(1, backbone.num_classes), torch.zeros(1, dtype=torch.long), backbone.class_weights, backbone.phrases)
    for target in spec.targets:
        if not backbone.num_classes and not TARGETS[target.name].texts and target.name != "none":
            raise Refusal(
                f"target {target.alias!r} is about a class, and {backbone.name} has none; give an open_clip backbone --text-classes FILE "
                f"or a target text:<phrase>, another a classifier"
            )
        explain_targets(target, trial)
    metrics, without_pairs = _metrics_with_pairs(spec)
    skipped += without_pairs
    for metric in metrics:
        refuse_metric(metric, backbone)
    fit = replace(spec, methods=tuple(methods), metrics=metrics)
    if spec.methods and not fit.pairs():
        raise Refusal("nothing to explain: every method asked for needs a target; name one with --targets, for example label")
    return fit, skipped


def _fit_target(target: Choice, backbone: backbones.Backbone) -> Choice:
    """A target with its argument as it applies to this backbone: that decides the values."""
    fit = TARGETS[target.name].fit
    return replace(target, argument=fit(target.argument, target.args, backbone.class_weights())) if fit else target


def _metrics_with_pairs(spec: ExplainSpec) -> tuple[tuple[Choice, ...], list[dict]]:
    """The metrics that can be computed, and those left out because there are no pairs of classes to compare."""
    of_pairs = [metric for metric in spec.metrics if METRICS[metric.name].of_pairs]
    files = [target for target in spec.targets if target.name == "pairs"]
    named = next((metric for metric in of_pairs if metric.explicit), None)
    if named and not files:
        raise Refusal(f"metric {named.alias!r} needs to know which classes differ in what: add --targets pairs:FILE")
    if of_pairs and len(files) > 1:
        raise Refusal(
            f"metric {of_pairs[0].alias!r} goes by one file of pairs; {len(files)} are asked for: {', '.join(f.alias for f in files)}"
        )
    skipped = [] if files else of_pairs
    reasons = [{"metric": metric.alias, "reason": "no target pairs:FILE is asked for"} for metric in skipped]
    return tuple(metric for metric in spec.metrics if metric not in skipped), reasons
