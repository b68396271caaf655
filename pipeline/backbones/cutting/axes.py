"""The meaning of a graph's values that their sizes alone do not tell: where their channels are, and what is still the image itself.

B images, K channels, h w cells, N tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd
from torch.utils._pytree import tree_leaves

from pipeline.backbones.cutting.graph import Traced, argument, module_of, operation
from pipeline.backbones.cutting.grid_format import GridFormat

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
RESHAPES = {"view", "reshape", "flatten", "unflatten"}
SWAPS = {"transpose", "swapaxes", "swapdims"}
ELEMENTWISE = {"add", "sub", "mul", "truediv", "div", "pow", "where", "clamp", "maximum", "minimum"}
MIRRORS = {"flip", "fliplr", "flipud", "rot90"}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class View:
    """What a graph's values are of the image that it looks at."""

    traced: Traced

    @cached_property
    def axes(self) -> dict[fx.Node, int]:
        return channel_axes(self.traced)

    @cached_property
    def images(self) -> set[fx.Node]:
        return image_like(self.traced)

    @cached_property
    def mirrored(self) -> set[fx.Node]:
        return mirrored(self.traced, self.images)

    @cached_property
    def readers(self) -> set[fx.Node]:
        """The layers of weights that read the image itself, on the way to the logits."""
        used = self.traced.ancestors([self.traced.logits]) & self.traced.image_values
        return {node for node in used - self.images if not self.images.isdisjoint(node.all_input_nodes)}

    def shows_all(self, node: fx.Node) -> bool:
        """Whether the network's whole view of the image is behind a value: every layer of weights that reads the image itself is."""
        return node not in self.images | self.mirrored and self.readers <= self.traced.ancestors([node])

    @property
    def parted(self) -> bool:
        """Whether the network parts at the image itself."""
        return len(self.readers) > 1


def channel_axes(traced: Traced) -> dict[fx.Node, int]:
    """The axis of each value's channels, where it can be followed from the image and its convolutions on."""
    axes: dict[fx.Node, int] = {}
    for node in traced.order:
        dims, parents = traced.dims(node), [parent for parent in node.all_input_nodes if parent in axes]
        if node.op == "placeholder" or isinstance(module_of(traced.module, node), _ConvNd) or operation(node) in CONVOLUTIONS:
            axis: int | None = 1
        else:
            axis = next(
                (axis for parent in parents if (axis := _axis_after(node, dims, traced.dims(parent), axes[parent])) is not None), None
            )
        if axis is not None and axis < len(dims):
            axes[node] = axis
    return axes


def _axis_after(node: fx.Node, dims: tuple[int, ...], before: tuple[int, ...], axis: int) -> int | None:
    """The axis of the channels after an operation on a value of the dimensions `before`, which had them at `axis`."""
    name = operation(node)
    if name == "permute":
        order = [place % len(before) for place in _numbers(node)]
        return order.index(axis) if axis in order else None
    if name in SWAPS:
        pair = [place % len(before) for place in _numbers(node)]
        return {pair[0]: pair[1], pair[1]: pair[0]}.get(axis, axis) if len(pair) == 2 else None
    if name == "getattr" and argument(node, 1) in ("T", "mT"):
        return {len(before) - 1: len(before) - 2, len(before) - 2: len(before) - 1}.get(axis, axis)
    if len(dims) == len(before) and name not in RESHAPES:
        return axis
    if axis == 1 and dims[:2] == before[:2]:
        return 1
    return len(dims) - 1 if axis == len(before) - 1 and dims[-1:] == before[-1:] else None


def image_like(traced: Traced) -> set[fx.Node]:
    """The values that are still the image: moved, resized, blurred or normalised, with no layer of weights in front of them."""
    nodes: set[fx.Node] = set()
    for node in traced.order:
        parents = [parent for parent in node.all_input_nodes if parent in traced.image_values]
        if node in traced.image_values and nodes.issuperset(parents) and not _has_weights(traced, node):
            nodes.add(node)
    return nodes


def _has_weights(traced: Traced, node: fx.Node) -> bool:
    """Whether an operation mixes its input by a matrix: a convolution or a linear layer, not a shift or a scale."""
    module = module_of(traced.module, node)
    if module is not None:
        return not isinstance(module, NORMS) and any(_is_matrix(tuple(value.shape)) for value in module.parameters())
    others = (other for other in node.all_input_nodes if other not in traced.image_values)
    return operation(node) not in ELEMENTWISE and any(_is_matrix(traced.dims(other)) for other in others)


def _is_matrix(dims: tuple[int, ...]) -> bool:
    return sum(side > 1 for side in dims) > 1


def mirrored(traced: Traced, images: set[fx.Node]) -> set[fx.Node]:
    """The values computed from an image that was turned or mirrored: their grids do not lie as the image does."""
    nodes: set[fx.Node] = set()
    for node in traced.order:
        if not nodes.isdisjoint(node.all_input_nodes) or (node in images and operation(node) in MIRRORS and not _of_colours(node)):
            nodes.add(node)
    return nodes


def _of_colours(node: fx.Node) -> bool:
    """Whether a flip is one of the channels alone, from RGB to BGR."""
    return operation(node) == "flip" and _numbers(node) in ([1], [-3])


def _numbers(node: fx.Node) -> list[int]:
    """The whole numbers among an operation's arguments."""
    return [value for value in tree_leaves((node.args[1:], node.kwargs)) if isinstance(value, int)]


def covered(traced: Traced, node: fx.Node, format_of: Callable[[fx.Node], GridFormat | None]) -> tuple[float, float]:
    """The rows and columns of the image that the cells of a grid lie over.

    Followed back to the image: where windows lie side by side, as those of a patch embedding, each takes its stride and the lines left over
    are dropped; at any other change of the grid the cells share all lines evenly.
    """
    after = format_of(node)
    assert after, "a cut has a grid"
    height, width = map(float, after.grid)
    while node.op != "placeholder":
        parents = [parent for parent in node.all_input_nodes if parent in traced.image_values]
        parent = next((parent for parent in parents if format_of(parent)), parents[0])
        before = format_of(parent)
        if before:
            ratio = before.grid[0] / after.grid[0], before.grid[1] / after.grid[1]
            step = _side_by_side(module_of(traced.module, node)) or ratio
            height, width, after = height * step[0], width * step[1], before
        node = parent
    return height, width


def _side_by_side(module: nn.Module | None) -> tuple[int, int] | None:
    """The strides of a convolution or pooling whose windows neither overlap nor reach beyond the border; None of anything else."""
    if not isinstance(module, (_ConvNd, _MaxPoolNd, _AvgPoolNd)) or getattr(module, "ceil_mode", False):
        return None
    kernel, stride, padding = (_pair(getattr(module, name)) for name in ("kernel_size", "stride", "padding"))
    dense = _pair(getattr(module, "dilation", 1)) == (1, 1)
    return stride if kernel == stride and padding in ((0, 0), ("valid", "valid")) and dense else None


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[-1]) if isinstance(value, (tuple, list)) else (value, value)
