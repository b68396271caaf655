"""A traced network in two halves: trunk(x) -> (A, rest) and head(A, rest) -> logits.

B images, K channels, h w cells, C classes, D features.
"""

import copy
import operator
import re
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.backbones.cutting.axes import covered
from pipeline.backbones.cutting.graph import OWN_CUT, Shape, Traced, Value, descendants, first_line, refuse_probabilities, trace
from pipeline.backbones.cutting.grid_format import GridFormat
from pipeline.backbones.cutting.layer import Layers
from pipeline.backbones.stated import has_no_classifier, prefix_tokens
from pipeline.backbones.weights import first_few
from pipeline.refusal import Refusal


class Cut(nn.Module):
    """Both halves of a network.

    A is the value at the cut. `rest` holds every other value that is alive there and depends on the image (residual stream, prefix
    tokens): tensors with the images first, so that rest can be indexed, repeated and concatenated as A can. Values that depend
    only on parameters or on the image's size stay inside the head.
    """

    def __init__(self, traced: Traced, node: fx.Node, grid_format: GridFormat, layers: Layers) -> None:
        super().__init__()
        self.layer, self.grid_format, self.covered = layers.name(node), grid_format, covered(traced, node, layers.format)
        # the names prefix and suffix are part of the identity of one's own networks
        self.prefix, self.suffix, alive = _split(traced, node, [traced.logits, *layers.classifier_inputs()])
        self.rows = [traced.one[other].dims[0] for other in alive]  # rows per image: more than one for windows
        self.eval()

    def trunk(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x [B, 3, H, W] -> A [B, K, h, w], rest."""
        value, *alive = self.prefix(x)
        A, prefix = self.grid_format.to_map(value)
        return A, (*prefix, *(other if rows == 1 else other.unflatten(0, (-1, rows)) for other, rows in zip(alive, self.rows, strict=True)))

    def head(self, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        """A [B, K, h, w], rest -> logits [B, C]."""
        return self.readout(A, rest)[0]

    def readout(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """A [B, K, h, w], rest -> logits [B, C], feature [B, D]."""
        logits, pieces = self.parts(A, rest)
        return logits, torch.cat([piece.flatten(1) for piece in pieces], 1) if pieces else logits

    def parts(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """A [B, K, h, w], rest -> logits [B, C], and the inputs of the classifier's linear layers."""
        logits, *pieces = self.suffix(*self.values(A, rest))
        return logits, pieces

    def values(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The values at the cut as the network has them."""
        first = len(rest) - len(self.rows)
        alive = (other if rows == 1 else other.flatten(0, 1) for other, rows in zip(rest[first:], self.rows, strict=True))
        return self.grid_format.from_map(A, rest[:first]), *alive

    @property
    def code(self) -> str:
        """Both halves as text: their modules with their settings, and the program that calls them."""
        return re.sub("0x[0-9a-f]+", "", f"{self.prefix}\n{self.suffix}")  # no address: another process has others


@torch.no_grad()
def cut_network(network: nn.Module, images: Tensor, layer: str | None) -> Cut:
    """`network`, frozen, cut at the output of `layer`, or where its kind is usually explained.

    Parameters:
        images: two images as the network takes them [2, 3, H, W].

    Raises:
        Refusal: where it cannot be traced, has no such layer or no grid there, or its logits do not depend on that grid.
    """
    network.eval().float().requires_grad_(False)
    traced = trace(network, images)
    if not has_no_classifier(network):
        refuse_probabilities(traced.output, traced.ends_in("sigmoid", nn.Sigmoid))
    height, width = images.shape[2:]
    layers = Layers(network, traced, (height, width), prefix_tokens(network))
    for node in [layers.named(layer)] if layer else layers.defaults():
        grid_format = layers.format(node)
        assert grid_format, "named and default layers have a grid"
        cut = Cut(traced, node, grid_format, layers)
        A, rest = cut.trunk(images)
        try:
            reads = reads_grid(cut, A, rest)
        except RuntimeError as error:  # torch's own about what changes in place, or has no derivative
            raise Refusal(
                f"behind layer {cut.layer!r} no gradient passes ({first_line(error)}); give another --layer, or {OWN_CUT}"
            ) from error
        if reads:
            _refuse_other_logits(cut, traced.output, A, rest)
            return cut
    if layer:
        raise Refusal(
            f"the logits do not depend on the grid of layer {layer!r} (after the last attention only the class token is read), "
            f"so its maps would be zero; name an earlier layer, such as the last block's norm1"
        )
    if layers.view.parted and (names := layers.ends()):
        raise Refusal(
            f"no layer sees all that the network does, which parts at the image itself: maps of one layer are about one part; name one with "
            f"--layer ({first_few(names)}), or {OWN_CUT}"
        )
    raise Refusal(f"no value of the network is a grid that its logits depend on; name one with --layer, or {OWN_CUT}")


def _refuse_other_logits(cut: Cut, logits: Tensor, A: Tensor, rest: tuple[Tensor, ...]) -> None:
    """Refuse halves that do not give the network's own logits twice over the same values."""
    for _ in range(2):
        error = (cut.head(A, rest) - logits).abs().max().item()
        if not error <= 1e-5 * max(1.0, logits.abs().max().item()):
            raise Refusal(
                f"cut at {cut.layer!r} the network's logits are off by {error:.1e} (values that change in place, or chance in its "
                f"forward); give another --layer, or {OWN_CUT}"
            )


def reads_grid(cut: Cut, A: Tensor, rest: tuple[Tensor, ...]) -> bool:
    """Whether the logits depend on any cell of A [B, K, h, w].

    After a ViT's last attention the class token alone is read, and a map made there is silently zero.
    """
    noise = torch.Generator().manual_seed(0)
    suffix = stirred(cut.suffix, noise)
    with torch.enable_grad():
        A = A.detach().requires_grad_()
        y = fx.Interpreter(suffix).run(*cut.values(A, rest))[0]  # which prints no traceback where it fails
        scalar = (y * torch.randn(y.shape, generator=noise)).sum()
        gradient = torch.autograd.grad(scalar, A, allow_unused=True)[0] if scalar.requires_grad else None
    return gradient is not None and bool((gradient != 0).any())


def stirred(module: fx.GraphModule, noise: torch.Generator) -> fx.GraphModule:
    """A copy in which parameters that are zero throughout, as some are in a fresh network, are moved a little; all others are shared."""
    shared = {id(value): value for value in module.parameters() if value.any()}
    other = copy.deepcopy(module, dict(shared))
    for value in other.parameters():
        if id(value) not in shared:
            value.data += 0.05 * torch.randn(value.shape, generator=noise).to(value)
    return other


def _split(traced: Traced, node: fx.Node, ends: list[fx.Node]) -> tuple[fx.GraphModule, fx.GraphModule, list[fx.Node]]:
    """The graph up to `node`, the graph from `node` to `ends`, and the other values that the second takes from the first."""
    inside, alive, constants = _sort(traced, node, ends)
    for other in alive:
        one, two = traced.one[other], traced.two[other]
        if not isinstance(one, Shape) or not one.dims or two.dims[0] != 2 * one.dims[0]:
            raise Refusal(f"the value {other.name!r}, alive at the cut, does not have the images first; give another --layer, or {OWN_CUT}")
    prefix, copies = fx.Graph(), dict[fx.Node, Any]()
    needed = traced.ancestors([node, *alive])
    for other in traced.order:
        if other in needed:
            copies[other] = prefix.node_copy(other, copies.__getitem__)
    prefix.output(tuple(copies[other] for other in (node, *alive)))
    suffix = fx.Graph()
    copies = {other: suffix.placeholder(other.name) for other in (node, *alive)}
    copies |= {other: _constant(suffix, copies[node], traced.one[other], traced.two[other]) for other in constants}
    for other in traced.order:
        if other in inside:
            copies[other] = suffix.node_copy(other, copies.__getitem__)
    suffix.output(tuple(copies[end] for end in ends))
    return fx.GraphModule(traced.module, prefix), fx.GraphModule(traced.module, suffix), alive


def _sort(traced: Traced, node: fx.Node, ends: list[fx.Node]) -> tuple[set[fx.Node], list[fx.Node], list[fx.Node]]:
    """The values that the second half computes, those that it takes from the first, and those that image size and batch decide."""
    behind = descendants(traced.order, [node])
    inside, alive, constants = set[fx.Node](), set[fx.Node](), set[fx.Node]()
    pending = list(ends)
    while pending:
        other = pending.pop()
        if other is node or other in inside or other in alive or other in constants:
            continue
        if other in behind or (other not in traced.image_values and traced.holds_tensor(other)):
            inside.add(other)
            pending.extend(other.all_input_nodes)
        else:
            (alive if other in traced.image_values else constants).add(other)
    return inside, sorted(alive, key=traced.order.__getitem__), sorted(constants, key=traced.order.__getitem__)


def _constant(graph: fx.Graph, A: fx.Node, one: Value, two: Value) -> Any:
    """A value that no pixel decides: written down as it is, or from A where it counts images or names the device."""
    if isinstance(two, tuple):
        return tuple(_constant(graph, A, *pair) for pair in zip(one, two, strict=True))
    if isinstance(two, torch.device):
        return graph.call_function(getattr, (A, "device"))
    if one == two:
        return two
    if not isinstance(two, int) or two != 2 * one:
        raise Refusal(f"alive at the cut, the network has {one!r} for one image and {two!r} for two; give another --layer, or {OWN_CUT}")
    return graph.call_function(operator.mul, (graph.call_method("size", (A, 0)), one))
