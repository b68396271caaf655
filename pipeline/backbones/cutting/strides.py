"""A convolutional network without its last strides: the same weights on a finer grid.

No kernel is dilated: a convolution that stepped by two now steps by one and keeps its weights, as CALM and the WSOL benchmark have it.

B images, K channels, h w cells, H W pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import fx, nn

from pipeline.backbones.cutting.graph import Shape, Value, argument, first_line, module_of, operation, source, trace_method
from pipeline.backbones.cutting.grid_format import grid_format_of
from pipeline.refusal import Refusal

POOLINGS = {F.max_pool2d: MaxPool2dSame, F.avg_pool2d: AvgPool2dSame}
PLAIN = "name a convolutional timm network, such as timm/resnet50"


def trunk(network: nn.Module, size: tuple[int, int], stride: int | None) -> tuple[fx.GraphModule, int]:
    """The part of a timm network in front of its pooling, x [B 3 H W] -> A [B K h w], at this output stride, and its stride.

    The strides are followed through the traced network. Parameters keep their names and values; those that only the classifier
    used are left out, and so is stochastic depth.

    Parameters:
        size: (H, W) of the images in pixels.
        stride: pixels per cell; the network's own where None.

    Raises:
        Refusal: where the network does not end in a spatial map, or has no such stride.
    """
    module, values = _features(network, size)
    strides = _strides(module)
    last_stride = max(strides.values())
    if stride is not None and stride != last_stride:
        choices = sorted(set(strides.values()))
        if stride not in choices:
            raise Refusal(f"output stride {stride} is none that {type(network).__name__} passes through; choose one of {choices}")
        for node in list(strides):
            if _factor(module, node) > 1 and strides[node] > stride:
                _step_by_one(module, node)
        module.graph.lint()
        module.recompile()
    maps = [node for node, pixels in strides.items() if pixels == (stride or last_stride) and _is_map(values[node], size)]
    with torch.no_grad():
        grid = tuple(module.eval()(torch.zeros(1, 3, *size)).shape[2:])
    if not maps or grid != values[maps[-1]].dims[2:]:
        raise Refusal(f"{type(network).__name__} at output stride {stride} has a grid of {grid}, which does not fit; {PLAIN}")
    return module, stride or last_stride


def _features(network: nn.Module, size: tuple[int, int]) -> tuple[fx.GraphModule, dict[fx.Node, Value]]:
    """The network up to its last feature map as a program of its own, with its values for two images."""
    method = getattr(network, "forward_features", None)
    if not callable(method):
        raise Refusal(f"{type(network).__name__} has no forward_features; {PLAIN}")
    try:
        module, values = trace_method(network.eval(), method, torch.zeros(2, 3, *size))
    except Exception as error:  # whatever a network's own Python raises
        raise Refusal(f"{type(network).__name__} cannot be traced for images of {size} ({first_line(error)}); {PLAIN}") from error
    output = argument(module.graph.output_node(), 0)
    if not isinstance(output, fx.Node) or not _is_map(values[output], size):
        raise Refusal(f"{type(network).__name__} does not end in a map of cells, and training needs a fully convolutional trunk; {PLAIN}")
    return module, values


def _is_map(value: Value, size: tuple[int, int]) -> bool:
    if not isinstance(value, Shape):
        return False
    if value.dims[2:] == (1, 1):  # of images as small as the network's own stride
        return True
    grid_format = grid_format_of(value.dims, value.channels_last, size, None)
    return grid_format is not None and grid_format.kind == "nchw"


def _strides(module: fx.GraphModule) -> dict[fx.Node, int]:
    """Pixels of the image per cell of each value."""
    strides: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        if node.op != "output":
            stride = max((strides[other] for other in node.all_input_nodes if other in strides), default=1)
            strides[node] = stride * _factor(module, node)
    return strides


def _factor(module: fx.GraphModule, node: fx.Node) -> int:
    """By how much an operation divides the sides of a map."""
    if part := module_of(module, node):
        step: Any = getattr(part, "stride", 1)
    elif node.target in (F.max_pool2d, F.avg_pool2d):
        step = argument(node, 2, "stride") or argument(node, 1, "kernel_size")
    elif node.target in (F.conv2d, torch.conv2d):
        step = argument(node, 3, "stride") or 1
    else:
        return 1
    return max(step) if isinstance(step, (tuple, list)) else step


def _step_by_one(module: fx.GraphModule, node: fx.Node) -> None:
    """Let an operation visit every cell, at the size of its input."""
    if part := module_of(module, node):
        if isinstance(part, (nn.MaxPool2d, nn.AvgPool2d)):
            owner, _, name = operation(node).rpartition(".")
            same = MaxPool2dSame if isinstance(part, nn.MaxPool2d) else AvgPool2dSame
            setattr(module.get_submodule(owner), name, same(part.kernel_size, stride=1))
        elif isinstance(part, nn.Conv2d):
            part.stride = (1, 1)
            if not isinstance(part, Conv2dSame):
                part.padding = "same"
        else:
            raise Refusal(f"the stride of {node.target!r}, a {type(part).__name__}, cannot be removed; {PLAIN}")
    elif node.target in POOLINGS:
        name = f"{node.name}_by_one"
        module.add_submodule(name, POOLINGS[node.target](argument(node, 1, "kernel_size"), stride=1))
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.call_module(name, (source(node, 0, "input"),)))
        module.graph.erase_node(node)
    else:
        raise Refusal(f"the stride of {node.name!r} cannot be removed; {PLAIN}")
