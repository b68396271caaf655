"""A convolutional network without its last strides: the same weights on a finer grid.

No kernel is dilated: a convolution that stepped by two now steps by one and keeps its weights, as CALM and the WSOL benchmark have it.

B images, K channels, h w cells, H W pixels.
"""

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import fx, nn

from pipeline.backbones.cutting import grid as layout
from pipeline.backbones.cutting.graph import Shape, line, written
from pipeline.refusal import Refusal

POOLS = {nn.MaxPool2d: MaxPool2dSame, nn.AvgPool2d: AvgPool2dSame, F.max_pool2d: MaxPool2dSame, F.avg_pool2d: AvgPool2dSame}
PLAIN = "name a convolutional timm network, such as timm/resnet50"


def trunk(network: nn.Module, size: tuple[int, int], stride: int | None) -> tuple[fx.GraphModule, int]:
    """The part of a timm network in front of its pooling, x [B 3 H W] -> A [B K h w], at this output stride, and its stride.

    Found by following the strides through the written-out network. Parameters keep their names and values; what only the classifier
    used is left out. Stochastic depth is left out as well.

    Parameters:
        size: (H, W) of the images in pixels.
        stride: pixels per cell that are wanted; the network's own where None.

    Raises:
        Refusal: where the network does not end in a spatial map, or has no such stride.
    """
    module, values = _features(network, size)
    strides = _strides(module)
    own, answer = max(strides.values()), module.graph.output_node().args[0]
    if stride not in (None, own):
        known = sorted(set(strides.values()))
        if stride not in known:
            raise Refusal(f"output stride {stride} is none that {type(network).__name__} passes through; choose one of {known}")
        for node in list(strides):
            if _factor(module, node) > 1 and strides[node] > stride:
                _step_by_one(module, node)
        module.graph.lint()
        module.recompile()
    last = [node for node, pixels in strides.items() if pixels == (stride or own) and _is_map(values[node], size)]
    with torch.no_grad():
        grid = tuple(module.eval()(torch.zeros(1, 3, *size)).shape[2:])
    if not last or grid != values[last[-1]].dims[2:] or not isinstance(answer, fx.Node):
        raise Refusal(f"{type(network).__name__} at output stride {stride} has a grid of {grid}, which does not fit; {PLAIN}")
    return module, stride or own


def _features(network: nn.Module, size: tuple[int, int]) -> tuple[fx.GraphModule, dict[fx.Node, object]]:
    """The network up to its last feature map as a program of its own, with what each value holds for one image."""
    if not hasattr(network, "forward_features"):
        raise Refusal(f"{type(network).__name__} has no forward_features; {PLAIN}")
    try:
        module, values = written(network.eval(), torch.zeros(2, 3, *size), network.forward_features)
    except Exception as error:  # whatever a network's own Python raises
        raise Refusal(f"{type(network).__name__} cannot be traced for images of {size} ({line(error)}); {PLAIN}") from error
    answer = module.graph.output_node().args[0]
    if not isinstance(answer, fx.Node) or not _is_map(values[answer], size):
        raise Refusal(f"{type(network).__name__} does not end in a map of cells, and training needs a fully convolutional trunk; {PLAIN}")
    return module, values


def _is_map(value: object, size: tuple[int, int]) -> bool:
    if not isinstance(value, Shape):
        return False
    if value.dims[2:] == (1, 1):  # of images as small as the network's own stride
        return True
    found = layout.find(value.dims, value.channels_last, size, None)
    return found is not None and found.kind == "nchw"


def _strides(module: fx.GraphModule) -> dict[fx.Node, int]:
    """Pixels of the image per cell of each value."""
    found: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        if node.op != "output":
            before = max((found[other] for other in node.all_input_nodes if other in found), default=1)
            found[node] = before * _factor(module, node)
    return found


def _factor(module: fx.GraphModule, node: fx.Node) -> int:
    """By how much an operation divides the sides of a map."""
    if node.op == "call_module":
        step = getattr(module.get_submodule(node.target), "stride", 1)
    elif node.target in (F.max_pool2d, F.avg_pool2d):
        step = _argument(node, "stride", 2) or _argument(node, "kernel_size", 1)
    elif node.target in (F.conv2d, torch.conv2d):
        step = _argument(node, "stride", 3) or 1
    else:
        return 1
    return max(step) if isinstance(step, (tuple, list)) else step


def _argument(node: fx.Node, name: str, position: int) -> object:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def _step_by_one(module: fx.GraphModule, node: fx.Node) -> None:
    """Let an operation visit every cell, at the size of its input."""
    if node.op == "call_module":
        part = module.get_submodule(node.target)
        kind = next((kind for kind in (nn.MaxPool2d, nn.AvgPool2d) if isinstance(part, kind)), None)
        if kind:
            owner, _, name = node.target.rpartition(".")
            setattr(module.get_submodule(owner), name, POOLS[kind](part.kernel_size, stride=1))
        elif isinstance(part, nn.Conv2d):
            part.stride = (1, 1)
            if not isinstance(part, Conv2dSame):
                part.padding = "same"
        else:
            raise Refusal(f"the stride of {node.target!r}, a {type(part).__name__}, cannot be removed; {PLAIN}")
    elif node.target in POOLS:
        name = f"{node.name}_by_one"
        module.add_submodule(name, POOLS[node.target](_argument(node, "kernel_size", 1), stride=1))
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.call_module(name, (node.args[0] if node.args else node.kwargs["input"],)))
        module.graph.erase_node(node)
    else:
        raise Refusal(f"the stride of {node.name!r} cannot be removed; {PLAIN}")
