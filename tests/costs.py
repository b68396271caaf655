"""What methods cost, counted on the network itself, and what they leave on it."""

from collections import Counter
from contextlib import nullcontext

import torch
from torch import nn

from pipeline import engine
from pipeline.methods import METHODS
from pipeline.plan.fit import fit_to_backbone
from pipeline.plan.outputs import outputs_of
from pipeline.spec.explain_spec import build_spec
from pipeline.spec.grammar import parse
from pipeline.stages.explainer import Explainer
from tests.entries import fact

EXAMPLES = {name: fact("methods", name, "COUNTED", None) or fact("methods", name, "SHORT", name) for name in METHODS}


def answered(backbone, pictures, methods, targets=("label",), during=nullcontext, **how):
    """Every table's rows and the tally; `during` is entered once the questions are known to fit."""
    spec, _ = fit_to_backbone(build_spec(methods, targets, **how), backbone)
    tally, wanted = Counter(), outputs_of(spec, backbone, ())
    explainer = Explainer(backbone, spec)
    explainer.backbone.class_weights()  # found out by one image, once for all that it explains
    with during():
        return explainer(pictures, wanted, tally), tally


def fits(method, backbone):
    return engine.misfit(parse(EXAMPLES[method], METHODS, "method"), backbone) is None


class Meter:
    """Rows that pass the network's first convolution and its last linear layer, forwards and backwards, seen from inside."""

    def __init__(self, backbone):
        modules = [module for module in backbone.cut.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        self.ends, self.rows = {"in": modules[0], "out": modules[-1]}, Counter()

    def __enter__(self):
        self.handles = [module.register_forward_hook(self._counting(end)) for end, module in self.ends.items()]

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()

    def _counting(self, end):
        def count(module, given, y):
            self.rows[end] += len(y)
            if y.requires_grad:
                y.register_hook(lambda gradient: self.rows.update({f"{end} back": len(gradient)}))

        return count


def state(backbone):
    """Everything a method could leave on a network."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [(module.training, *(tuple(getattr(module, kind)) for kind in hooks)) for module in backbone.cut.modules()]
    values = [(value.data_ptr(), value.requires_grad, value.grad is None) for value in backbone.cut.state_dict(keep_vars=True).values()]
    return modules, values, torch.is_grad_enabled(), bytes(torch.get_rng_state().numpy())
