"""Relevance of every value of a network, walked back from its logits (Chefer et al. 2021, section 3.1; layer by layer as they released it).

What a value is worth is handed to the values it was made of, by the operation that made it. `ratio(R, z)` is R / z, 0 where z is 0.

    linear     R_j = sum_i (x_j w_ij)+ R_i / sum_j' (x_j' w_ij')+               eq. 2-3, alpha = 1; the bias takes no share
    product    R_u = u * d<z, ratio(R, z)>/du, halved where both factors depend on the image         eq. 6
    sum        the same, then each term's total is set to its absolute share |R_u| / (|R_u| + |R_v|) of R, image by image      eq. 8-9
    mean       R_x = x * d<z, ratio(R, z)>/dx
    norms, softmax, activations, factors that no pixel decides: R as it is; what only rearranges carries R along
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

STEADY = 1e-9
PASSES = (nn.Identity, nn.LayerNorm, nn.RMSNorm, nn.GELU, nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softmax, _DropoutNd)
PASSING = {"layer_norm", "rms_norm", "gelu", "relu", "silu", "tanh", "sigmoid", "softmax", "dropout"}
PASSING |= {"normalize", "scaled", "neg", "contiguous", "clone", "float", "to", "type_as"}
MOVING = {"getitem", "select", "narrow", "reshape", "view", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze"}
MOVING |= {"expand", "cat", "concat", "stack", "unbind", "chunk", "split"}


class NoRule(ValueError):
    """An operation for which no rule of relevance is known."""


def ratio(R: Tensor, z: Tensor) -> Tensor:
    """R / z, held steady near z = 0 and 0 there."""
    return torch.where(z == 0, torch.zeros_like(R), R / (z + STEADY * torch.where(z < 0, -1.0, 1.0)))


def relevances(module: fx.GraphModule, values: Mapping[fx.Node, object], seed: Tensor, wanted: Sequence[fx.Node]) -> list[Tensor]:
    """The relevance of each wanted value, of the value's shape.

    Parameters:
        values: every value of one pass.
        seed: relevance of the logits [B C], the first of the module's outputs.

    Raises:
        NoRule: naming the operation on the way that has no rule.
    """
    behind, seeing = set(wanted), set()  # what is made of a wanted value; what depends on the image
    for node in module.graph.nodes:
        if not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
        if node.op == "placeholder" or (_carries(values.get(node)) and not seeing.isdisjoint(node.all_input_nodes)):
            seeing.add(node)
    found = {module.graph.output_node().args[0][0]: seed}
    for node in reversed(module.graph.nodes):
        R = _gathered(node, values, found)
        for source, share in _Step(module, node, values, behind, seeing, R).shares() if R else []:
            found[source] = found[source] + share if source in found else share
    return [found.get(node, torch.zeros_like(values[node], dtype=seed.dtype)) for node in wanted]


def _carries(value: object) -> bool:
    """Whether relevance can sit here: in a tensor, or a tuple of them; not in a shape."""
    return isinstance(value, Tensor) or (isinstance(value, tuple) and any(isinstance(part, Tensor) for part in value))


def _gathered(node: fx.Node, values: Mapping, found: Mapping) -> tuple[Tensor, ...] | None:
    """What has come together at a value; the parts of a tuple are found under (node, position)."""
    value = values.get(node)
    if isinstance(value, tuple) and any((node, i) in found for i in range(len(value))):
        dtype = next(iter(found.values())).dtype
        return tuple(found.get((node, i), torch.zeros_like(part, dtype=dtype)) for i, part in enumerate(value))
    return (found[node],) if node in found else None


class _Step:
    """One operation with the values that went in and the relevance of what came out."""

    def __init__(self, module: fx.GraphModule, node: fx.Node, values: Mapping, behind: set, seeing: set, R: tuple[Tensor, ...]) -> None:
        self.node, self.R, self._values, self._seeing = node, R, values, seeing
        self.part = module.get_submodule(node.target) if node.op == "call_module" else None
        self.sources = [other for other in node.all_input_nodes if other in behind and _carries(values[other])]

    def shares(self) -> list[tuple[object, Tensor]]:
        """Relevance for each value that went in."""
        return self._rule()() if self.sources else []

    def _rule(self) -> Callable:
        target = self.node.target
        name = type(self.part).__name__ if self.part else target if isinstance(target, str) else target.__name__
        if isinstance(self.part, nn.Linear) or target is F.linear:
            return self._linear
        if isinstance(self.part, PASSES) or name in PASSING:
            return lambda: [(self.node.args[0], self.R[0])]
        if name in MOVING:
            return self._picked if isinstance(self._values[self.sources[0]], tuple) else self._moved
        rules = {"add": self._sum, "sub": self._sum, "mean": self._drawn, "sum": self._drawn}
        rules["maybe_add_mask"] = self._masked
        rules |= dict.fromkeys(("mul", "matmul", "bmm", "truediv", "div"), self._product)
        if name not in rules:
            raise NoRule(f"the operation {name!r}, which makes {self.node.name!r}, has no rule")
        return rules[name]

    def _value(self, other: object) -> object:
        """A value of the pass in the arithmetic of the relevance."""
        value = self._values[other] if isinstance(other, fx.Node) else other
        return value.detach().to(self.R[0].dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def _pulled(self, upon: Callable) -> list[tuple[fx.Node, Tensor]]:
        """d<z, upon(z)>/dx for each source x, the operation being run again."""
        with torch.enable_grad():
            leaves = {other: self._value(other).requires_grad_() for other in self.sources}
            args, kwargs = fx.map_arg((self.node.args, self.node.kwargs), lambda other: leaves.get(other, self._value(other)))
            called = getattr(args[0], self.node.target) if self.node.op == "call_method" else self.node.target
            z = called(*(args[1:] if self.node.op == "call_method" else args), **kwargs)
            z = z if isinstance(z, (tuple, list)) else (z,)
            pulled = torch.autograd.grad(z, list(leaves.values()), upon([part.detach() for part in z]))
        return list(zip(leaves, pulled, strict=True))

    def _moved(self) -> list[tuple[fx.Node, Tensor]]:
        return self._pulled(lambda z: self.R)

    def _picked(self) -> list[tuple[object, Tensor]]:
        tuple_node, position = self.node.args
        return [((tuple_node, position % len(self._values[tuple_node])), self.R[0])]

    def _drawn(self) -> list[tuple[fx.Node, Tensor]]:
        return [(x, self._value(x) * pulled) for x, pulled in self._pulled(lambda z: [ratio(self.R[0], z[0])])]

    def _product(self) -> list[tuple[fx.Node, Tensor]]:
        (left, right), name = self.node.args[:2], getattr(self.node.target, "__name__", self.node.target)
        both = left in self._seeing and right in self._seeing
        if right in self._seeing and "div" in name:
            raise NoRule(f"a division by {right.name!r} has no rule")
        if not both and name in ("matmul", "bmm"):
            if right in self._seeing or self._value(right).dim() != 2:
                raise NoRule(f"a product with the constant matrices that make {self.node.name!r} has no rule")
            return self._linear(self._value(right).T)
        if not both and self._values[self.sources[0]].shape == self.R[0].shape:
            return [(self.sources[0], self.R[0])]
        return [(x, share / 2 if both else share) for x, share in self._drawn()]

    def _linear(self, weight: Tensor | None = None) -> list[tuple[fx.Node, Tensor]]:
        source = self.node.args[0]
        if weight is None:
            weight = self.part.weight if self.part else self.node.kwargs.get("weight", self.node.args[1:2] and self.node.args[1])
        x, weight = self._value(source), self._value(weight)
        ups, downs = (x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))
        S = ratio(self.R[0], F.linear(*ups) + F.linear(*downs))
        return [(source, sum(part * (S @ slope) for part, slope in (ups, downs)))]

    def _masked(self) -> list[tuple[fx.Node, Tensor]]:
        """timm's own step before a softmax that is not fused; mostly there is no mask."""
        return self._sum() if isinstance(self._value(self.node.args[1]), Tensor) else [(self.node.args[0], self.R[0])]

    def _sum(self) -> list[tuple[fx.Node, Tensor]]:
        R, (left, right) = self.R[0], self.node.args[:2]
        S = ratio(R, self._value(self.node))
        sign = -1 if getattr(self.node.target, "__name__", self.node.target) == "sub" else 1
        terms = [(left, self._value(left) * S), (right, sign * self._value(right) * S)]
        totals = [_per_image(term) for _, term in terms]
        size = sum(total.abs() for total in totals)
        shares = [(x, term * total.sign() * ratio(_per_image(R), size)) for (x, term), total in zip(terms, totals, strict=True)]
        return [(x, share.sum_to_size(self._values[x].shape)) for x, share in shares if x in self.sources]


def _per_image(R: Tensor) -> Tensor:
    """Total of each image, with dimensions kept."""
    return R.sum(tuple(range(1, R.dim())), keepdim=True) if math.prod(R.shape[1:]) else R
