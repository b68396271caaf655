"""An explain spec fitted to a backbone: methods and targets that fit it, what targets mean on it."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from pipeline import backbones, engine
from pipeline.engine.batch import explained_by
from pipeline.engine.perturbed import refuse
from pipeline.metrics import METRICS
from pipeline.refusal import Refusal
from pipeline.spec.explain_spec import Questions
from pipeline.spec.grammar import Request
from pipeline.targets import TARGETS
from pipeline.targets.registry import Answers


def with_sets(questions: Questions, sets: Mapping[str, tuple[int, ...]]) -> Questions:
    """The questions, every class_set target knowing the members of its set, which so are part of what identifies its maps."""
    written = {name: f"{name}={' '.join(map(str, members))}" for name, members in sets.items()}
    targets = []
    for target in questions.targets:
        if target.name == "class_set" and written:
            # all of them to `own`, and to a slip of the hand, which is told what there is
            known = (written[target.argument],) if target.argument in written else tuple(sorted(written.values()))
            target = replace(target, settings=tuple(sorted({**target.args, "sets": known}.items())))
        targets.append(target)
    return replace(questions, targets=tuple(targets))


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
