"""Relevance of every value of a network, walked back from its logits (Chefer et al. 2021, section 3.1; layer by layer as they released it).

Each operation hands the relevance of its result to its inputs. `ratio(R, z)` is R / z, 0 where z is 0.

    linear     R_j = sum_i (x_j w_ij)+ R_i / sum_j' (x_j' w_ij')+               eq. 2-3, alpha = 1; the bias takes no share
    product    R_u = u * d<z, ratio(R, z)>/du, halved where both factors depend on the image         eq. 6
    sum        the same, then each term's total is set to its absolute share |R_u| / (|R_u| + |R_v|) of R, image by image      eq. 8-9
    mean       R_x = x * d<z, ratio(R, z)>/dx
    norms, softmax, activations, factors that no pixel decides: R as it is; rearrangements carry R along
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from pipeline.backbones.cutting.graph import argument, descendants, module_of, operation, outputs, source

STEADY = 1e-9
PASSES = (nn.Identity, nn.LayerNorm, nn.RMSNorm, nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softmax, _DropoutNd)
PASSING = {"layer_norm", "rms_norm", "gelu", "relu", "silu", "tanh", "sigmoid", "softmax", "dropout"}
PASSING |= {"normalize", "scaled", "neg", "contiguous", "clone", "float", "to", "type_as"}
MOVING = {"getitem", "select", "narrow", "reshape", "view", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze"}
MOVING |= {"expand", "cat", "concat", "stack", "unbind", "chunk", "split"}
Values = Mapping[fx.Node, Any]  # of one pass
Key = fx.Node | tuple[fx.Node, int]  # a value, or one part of a tuple
Shares = list[tuple[Key, Tensor]]


class NoRule(ValueError):
    """An operation for which no rule of relevance is known."""


def ratio(R: Tensor, z: Tensor) -> Tensor:
    """R / z, held steady near z = 0 and 0 there."""
    return torch.where(z == 0, torch.zeros_like(R), R / (z + STEADY * torch.where(z < 0, -1.0, 1.0)))


def relevances(module: fx.GraphModule, values: Values, seed: Tensor, nodes: Sequence[fx.Node]) -> list[Tensor]:
    """The relevance of the value of each node, of the value's shape.

    Parameters:
        values: every value of one pass.
        seed: relevance of the logits [B C], the first of the module's outputs.

    Raises:
        NoRule: naming an operation on the way that has no rule.
    """
    behind = descendants(module.graph.nodes, nodes)
    image_values: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or (_holds_tensor(values.get(node)) and not image_values.isdisjoint(node.all_input_nodes)):
            image_values.add(node)
    totals: dict[Key, Tensor] = {outputs(module.graph)[0]: seed}
    for node in reversed(module.graph.nodes):
        R = _total_of(node, values, totals)
        for key, share in _Step(module, node, values, behind, image_values, R).shares() if R else []:
            totals[key] = totals[key] + share if key in totals else share
    return [totals.get(node, torch.zeros_like(values[node], dtype=seed.dtype)) for node in nodes]


def _holds_tensor(value: object) -> bool:
    """Whether relevance can sit here: in a tensor, or a tuple of them; not in a shape."""
    return isinstance(value, Tensor) or (isinstance(value, tuple) and any(isinstance(part, Tensor) for part in value))


def _total_of(node: fx.Node, values: Values, totals: Mapping[Key, Tensor]) -> tuple[Tensor, ...] | None:
    """The relevance that has come together at a value, part by part of a tuple; None where there is none."""
    value = values.get(node)
    if isinstance(value, tuple) and any((node, i) in totals for i in range(len(value))):
        dtype = next(iter(totals.values())).dtype
        return tuple(totals.get((node, i), torch.zeros_like(part, dtype=dtype)) for i, part in enumerate(value))
    return (totals[node],) if node in totals else None


class _Step:
    """One operation with its inputs and the relevance of its result."""

    def __init__(
        self, module: fx.GraphModule, node: fx.Node, values: Values, behind: set[fx.Node], image_values: set[fx.Node], R: tuple[Tensor, ...]
    ) -> None:
        self.node, self.R, self._values, self._image_values = node, R, values, image_values
        self.part = module_of(module, node)
        self.inputs = [other for other in node.all_input_nodes if other in behind and _holds_tensor(values[other])]

    def shares(self) -> Shares:
        """Relevance for each input."""
        return self._rule()() if self.inputs else []

    def _rule(self) -> Callable[[], Shares]:
        name = type(self.part).__name__ if self.part else operation(self.node)
        if isinstance(self.part, nn.Linear) or self.node.target is F.linear:
            return self._linear
        if isinstance(self.part, PASSES) or name in PASSING:
            return lambda: [(source(self.node), self.R[0])]
        if name in MOVING:
            return self._part if isinstance(self._values[self.inputs[0]], tuple) else self._share_by_rearranging
        rules = {"add": self._sum, "sub": self._sum, "mean": self._share_by_weights, "sum": self._share_by_weights}
        rules["maybe_add_mask"] = self._share_by_mask
        rules |= dict.fromkeys(("mul", "matmul", "bmm", "truediv", "div"), self._product)
        if name not in rules:
            raise NoRule(f"the operation {name!r}, which makes {self.node.name!r}, has no rule")
        return rules[name]

    def _value(self, other: Any) -> Any:
        """A value of the pass in the arithmetic of the relevance; a constant as it is."""
        value = self._values[other] if isinstance(other, fx.Node) else other
        return value.detach().to(self.R[0].dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def _gradients(self, upstream: Callable[[Sequence[Tensor]], Sequence[Tensor]]) -> list[tuple[fx.Node, Tensor]]:
        """d<z, upstream(z)>/dx for each input x, the operation being run again."""
        with torch.enable_grad():
            leaves = {other: self._value(other).requires_grad_() for other in self.inputs}
            args, kwargs = fx.map_arg((self.node.args, self.node.kwargs), lambda other: leaves.get(other, self._value(other)))
            if isinstance(self.node.target, str):  # a method of the first argument
                z = getattr(args[0], self.node.target)(*args[1:], **kwargs)
            else:
                z = self.node.target(*args, **kwargs)
            z = z if isinstance(z, (tuple, list)) else (z,)
            gradients = torch.autograd.grad(z, list(leaves.values()), upstream([part.detach() for part in z]))
        return list(zip(leaves, gradients, strict=True))

    def _share_by_rearranging(self) -> Shares:
        return [*self._gradients(lambda z: self.R)]

    def _part(self) -> Shares:
        parts, position = source(self.node), argument(self.node, 1)
        return [((parts, position % len(self._values[parts])), self.R[0])]

    def _share_by_weights(self) -> Shares:
        return [(x, self._value(x) * gradient) for x, gradient in self._gradients(lambda z: [ratio(self.R[0], z[0])])]

    def _product(self) -> Shares:
        left, right, name = argument(self.node, 0), argument(self.node, 1), operation(self.node)
        both = left in self._image_values and right in self._image_values
        if right in self._image_values and "div" in name:
            raise NoRule(f"a division by {right.name!r} has no rule")
        if not both and name in ("matmul", "bmm"):
            if right in self._image_values or self._value(right).dim() != 2:
                raise NoRule(f"a product with the constant matrices that make {self.node.name!r} has no rule")
            return self._linear(self._value(right).T)
        if not both and self._values[self.inputs[0]].shape == self.R[0].shape:
            return [(self.inputs[0], self.R[0])]
        return [(x, share / 2 if both else share) for x, share in self._share_by_weights()]

    def _linear(self, weight: Tensor | None = None) -> Shares:
        x = source(self.node)
        if weight is None:
            weight = self._value(self.part.weight if isinstance(self.part, nn.Linear) else argument(self.node, 1, "weight"))
        value = self._value(x)
        positive, negative = (value.clamp(min=0), weight.clamp(min=0)), (value.clamp(max=0), weight.clamp(max=0))
        S = ratio(self.R[0], F.linear(*positive) + F.linear(*negative))
        return [(x, sum(half * (S @ slope) for half, slope in (positive, negative)))]

    def _share_by_mask(self) -> Shares:
        """timm's own step before a softmax that is not fused; mostly there is no mask."""
        return self._sum() if isinstance(self._value(argument(self.node, 1)), Tensor) else [(source(self.node), self.R[0])]

    def _sum(self) -> Shares:
        R, left, right = self.R[0], argument(self.node, 0), argument(self.node, 1)
        S = ratio(R, self._value(self.node))
        sign = -1 if operation(self.node) == "sub" else 1
        terms = [(left, self._value(left) * S), (right, sign * self._value(right) * S)]
        totals = [_per_image(term) for _, term in terms]
        size = totals[0].abs() + totals[1].abs()
        shares = [(x, term * total.sign() * ratio(_per_image(R), size)) for (x, term), total in zip(terms, totals, strict=True)]
        return [(x, share.sum_to_size(self._values[x].shape)) for x, share in shares if x in self.inputs]


def _per_image(R: Tensor) -> Tensor:
    """Total of each image, with dimensions kept."""
    return R.sum(tuple(range(1, R.dim())), keepdim=True) if math.prod(R.shape[1:]) else R
