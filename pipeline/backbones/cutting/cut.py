"""A traced network in two halves: trunk(x) -> (A, rest) and head(A, rest) -> logits.

B images, K channels, h w cells, C classes, D features.
"""

import copy
import operator
import re

import torch
from torch import Tensor, fx, nn

from pipeline.backbones.cutting.graph import OWN_CUT, Shape, Traced, trace
from pipeline.backbones.cutting.layer import Layers
from pipeline.refusal import Refusal


class Cut(nn.Module):
    """Both halves of a network.

    A is the value at the cut. `rest` holds every other value that is alive there and depends on the image (residual stream, prefix
    tokens): tensors with the images first, so that rest can be indexed, repeated and concatenated as A can. What depends only on
    parameters or on the image's size stays inside the head.
    """

    def __init__(self, traced: Traced, node: fx.Node, layers: Layers) -> None:
        super().__init__()
        self.layer, self.layout = layers.name(node), layers.layout(node)
        self.prefix, self.suffix, alive = _halves(traced, node, [traced.logits, *layers.classifier_inputs()])
        self.rows = [traced.one[other].dims[0] for other in alive]  # rows per image: more than one for windows
        self.eval()

    def trunk(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x [B, 3, H, W] -> A [B, K, h, w], rest."""
        value, *alive = self.prefix(x)
        A, prefix = self.layout.open(value)
        return A, (*prefix, *(other if rows == 1 else other.unflatten(0, (-1, rows)) for other, rows in zip(alive, self.rows, strict=True)))

    def head(self, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        """A [B, K, h, w], rest -> logits [B, C]."""
        return self.readout(A, rest)[0]

    def readout(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """A [B, K, h, w], rest -> logits [B, C], feature [B, D]."""
        logits, pieces = self.parts(A, rest)
        return logits, torch.cat([piece.flatten(1) for piece in pieces], 1) if pieces else logits

    def parts(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """A [B, K, h, w], rest -> logits [B, C], and what the classifier's linear layers read as they read it."""
        logits, *pieces = self.suffix(*self.closed(A, rest))
        return logits, pieces

    def closed(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The values at the cut as the network has them."""
        first = len(rest) - len(self.rows)
        alive = (other if rows == 1 else other.flatten(0, 1) for other, rows in zip(rest[first:], self.rows, strict=True))
        return self.layout.close(A, rest[:first]), *alive

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
    layers = Layers(network, traced, tuple(images.shape[2:]), getattr(network, "num_prefix_tokens", None))
    for node in [layers.named(layer)] if layer else layers.defaults():
        cut = Cut(traced, node, layers)
        A, rest = cut.trunk(images)
        if reads_grid(cut, A, rest):
            return _checked(cut, traced, A, rest)
    if layer:
        raise Refusal(
            f"the logits do not depend on the grid of layer {layer!r} (after the last attention only the class token is read), "
            f"so its maps would be zero; name an earlier layer, such as the last block's norm1"
        )
    raise Refusal(f"no value of the network is a grid that its logits depend on; name one with --layer, or {OWN_CUT}")


def _checked(cut: Cut, traced: Traced, A: Tensor, rest: tuple[Tensor, ...]) -> Cut:
    """The cut, its halves having given the network's own answer twice over the same values."""
    for _ in range(2):
        off = (cut.head(A, rest) - traced.answer).abs().max().item()
        if not off <= 1e-5 * max(1.0, traced.answer.abs().max().item()):
            raise Refusal(
                f"cut at {cut.layer!r} the network's logits are off by {off:.1e} (values that change in place, or chance in its "
                f"forward); give another --layer, or {OWN_CUT}"
            )
    return cut


def reads_grid(cut: Cut, A: Tensor, rest: tuple[Tensor, ...]) -> bool:
    """Whether the logits depend on any cell of A [B, K, h, w].

    After a ViT's last attention the class token alone is read, and a map made there is silently zero. The answer comes from a copy of
    the head in which parameters that are zero throughout, as some are in a fresh network, are moved a little.
    """
    kept = {id(value): value for value in cut.suffix.parameters() if value.any()}
    moved, noise = copy.deepcopy(cut.suffix, dict(kept)), torch.Generator().manual_seed(0)
    for value in moved.parameters():
        if id(value) not in kept:
            value += 0.05 * torch.randn(value.shape, generator=noise)
    with torch.enable_grad():
        A = A.detach().requires_grad_()
        y = moved(*cut.closed(A, rest))[0]
        scalar = (y * torch.randn(y.shape, generator=noise)).sum()
        gradient = torch.autograd.grad(scalar, A, allow_unused=True)[0] if scalar.requires_grad else None
    return gradient is not None and bool((gradient != 0).any())


def _halves(traced: Traced, node: fx.Node, ends: list[fx.Node]) -> tuple[fx.GraphModule, fx.GraphModule, list[fx.Node]]:
    """The graph up to `node`, the graph from `node` to `ends`, and the other values that the second takes from the first."""
    behind = traced.behind(node)
    inside, alive, settled = _sort(traced, node, ends, behind)
    for other in alive:
        one, two = traced.one[other], traced.two[other]
        if not isinstance(one, Shape) or not one.dims or two.dims[0] != 2 * one.dims[0]:
            raise Refusal(f"the value {other.name!r}, alive at the cut, does not have the images first; give another --layer, or {OWN_CUT}")
    prefix, known = fx.Graph(), {}
    needed = traced.before([node, *alive])
    for other in traced.order:
        if other in needed:
            known[other] = prefix.node_copy(other, known.__getitem__)
    prefix.output(tuple(known[other] for other in (node, *alive)))
    suffix = fx.Graph()
    known = {other: suffix.placeholder(other.name) for other in (node, *alive)}
    known |= {other: _settled(suffix, known[node], traced.one[other], traced.two[other]) for other in settled}
    for other in traced.order:
        if other in inside:
            known[other] = suffix.node_copy(other, known.__getitem__)
    suffix.output(tuple(known[end] for end in ends))
    return fx.GraphModule(traced.module, prefix), fx.GraphModule(traced.module, suffix), alive


def _sort(traced: Traced, node: fx.Node, ends: list[fx.Node], behind: set[fx.Node]) -> tuple[set[fx.Node], list[fx.Node], list[fx.Node]]:
    """What the second half computes, what it takes from the first as it is, and what is settled by the image's size and the batch."""
    inside, alive, settled, asked = set(), set(), set(), list(ends)
    while asked:
        other = asked.pop()
        if other is node or other in inside or other in alive or other in settled:
            continue
        if other in behind or (other not in traced.carriers and traced.holds_tensor(other)):
            inside.add(other)
            asked.extend(other.all_input_nodes)
        else:
            (alive if other in traced.carriers else settled).add(other)
    return inside, sorted(alive, key=traced.order.__getitem__), sorted(settled, key=traced.order.__getitem__)


def _settled(graph: fx.Graph, A: fx.Node, one: object, two: object) -> object:
    """A value that no pixel decides: written down as it is, or from A where it counts images or names the device."""
    if isinstance(two, tuple):
        return tuple(_settled(graph, A, *pair) for pair in zip(one, two, strict=True))
    if isinstance(two, torch.device):
        return graph.call_function(getattr, (A, "device"))
    if one == two:
        return two
    if not isinstance(two, int) or two != 2 * one:
        raise Refusal(f"alive at the cut, the network has {one!r} for one image and {two!r} for two; give another --layer, or {OWN_CUT}")
    return graph.call_function(operator.mul, (graph.call_method("size", (A, 0)), one))
