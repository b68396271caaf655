"""Values of a network by layer: the value that its maps are made of, its name, and the inputs of the classifier."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from pipeline.backbones.cutting.axes import View
from pipeline.backbones.cutting.graph import Shape, Traced, argument, descendants, module_of, operation
from pipeline.backbones.cutting.grid_format import GridFormat, grid_format_of
from pipeline.backbones.stated import feature_layer
from pipeline.refusal import Refusal, choose

PASSES = (nn.Identity, nn.Flatten, _DropoutNd)
POOLS = (_AvgPoolNd, _MaxPoolNd, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd)
POOLING = (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
REARRANGES = {"permute", "contiguous", "transpose"}
FIRST_NORMS = ("norm1", "ln_1")  # a block's, as timm and open_clip call it
SUMS = {"add", "sub", "mul", "truediv", "div", "stack", "cat", "mean"}
RESHAPES = {"flatten", "squeeze", "dropout", "view", "reshape", "contiguous", "float"}


@dataclass(frozen=True)
class Layers:
    """The values of a traced network as candidates for the cut.

    Attributes:
        network: the network itself, for the names of its modules.
        image_size: (H, W) in pixels.
        prefix: the number of prefix tokens the network states, if it does.
    """

    network: nn.Module
    traced: Traced
    image_size: tuple[int, int]
    prefix: int | None

    def format(self, node: fx.Node) -> GridFormat | None:
        """The format of a value that holds a grid; None where it holds none."""
        shape = self.traced.two.get(node)
        if not isinstance(shape, Shape):
            return None
        return grid_format_of(shape.dims, shape.channels_last, self.image_size, self.prefix, self.view.axes.get(node))

    @cached_property
    def view(self) -> View:
        return View(self.traced)

    def defaults(self) -> Iterator[fx.Node]:
        """Nodes to cut at, best first: never the image itself, nor a value that only a part of the network passes through.

        A network that ends in a spatial map is cut at the last one before pooling. One that ends in tokens is cut at the first norm of its
        last block, else at the last tokens that all of it passes through, else at its last normalised tokens.
        """
        spine, order = self.traced.spine(), self.traced.order
        maps = [node for node in spine if self._kind(node) in ("nchw", "nhwc") and self.view.shows_all(node) and not _in_classifier(node)]
        start = order[maps[-1]] if maps else -1
        returned = {node: path for path, nodes in self.traced.returned.items() if path for node in nodes if order[node] > start}
        tokens = [node for node in sorted(returned, key=order.__getitem__, reverse=True) if self._kind(node) == "tokens"]
        tokens = [node for node in tokens if self.view.shows_all(node)]
        yield from (node for node in tokens if returned[node].rpartition(".")[2] in FIRST_NORMS)
        yield from (node for node in tokens if node in spine)
        yield from (node for node in tokens if "norm" in returned[node].rpartition(".")[2])
        if maps:
            yield self._before_pooling(maps[-1])

    def named(self, layer: str) -> fx.Node:
        """The output of the module at this path.

        Raises:
            Refusal: where there is no such module, it is not called on its own, or it gives no grid.
        """
        paths = [path for path, _ in self.network.named_modules(remove_duplicate=False) if path]
        similar = layer in paths or get_close_matches(layer, paths, cutoff=0.5)
        choose(layer, paths if similar else [path for path in paths if "." not in path], "layer")  # hundreds of paths are no hint
        first_paths = {module: path for path, module in self.network.named_modules()}  # a shared module is known by its first path
        calls = self.traced.calls.get(first_paths[self.network.get_submodule(layer)], [])
        nodes = next((nodes for nodes in reversed(calls) if self.view.mirrored.isdisjoint(nodes)), [])
        if calls and calls[-1] and not nodes:
            raise Refusal(
                f"layer {layer!r} sees the image mirrored or turned, so its maps would lie so too; name a layer that sees it upright"
            )
        if self.view.images.intersection(nodes):
            raise Refusal(f"layer {layer!r} gives the image itself, with no layer of weights before it; name a later one")
        if not nodes:
            raise Refusal(f"layer {layer!r} is never called on its own when the network looks at an image; name the module around it")
        for node in nodes:
            if self.format(node):
                return node
        dims = self.traced.dims(nodes[0])
        shape = ["B", *dims[1:]] if dims[:1] == (2,) else list(dims)
        raise Refusal(
            f"layer {layer!r} gives {'[' + ', '.join(map(str, shape)) + ']'}, in which no grid of cells shows for images of "
            f"{self.image_size}; name a layer before pooling"
        )

    def name(self, node: fx.Node) -> str:
        """The one name of a value: the outermost module that returns it, down through containers to the block inside."""
        paths = [path for path, nodes in self.traced.returned.items() if path and node in nodes]
        if not paths:
            scope = list(node.meta.get("nn_module_stack", {}).values())
            return f"{scope[-1][0].partition('.')[2] if scope else ''}:{node.name}"
        path = min(paths, key=lambda path: path.count("."))
        while isinstance(self.network.get_submodule(path), nn.Sequential):
            inner = [other for other in paths if other.rpartition(".")[0] == path]
            if not inner:
                break
            path = inner[0]
        return path

    def classifier_inputs(self) -> list[fx.Node]:
        """The inputs of the linear layers (1x1 convolutions of a pooled map too) of which the logits are a sum.

        Several for a distilled network, which averages two heads; none where the logits are made otherwise. A network written here
        may name the module whose output it is.
        """
        if layer := feature_layer(self.network):
            return self.traced.returned[layer]
        inputs: set[fx.Node] = set()
        pending = [self.traced.logits]
        while pending:
            node = pending.pop()
            module, value = self._module(node), argument(node, 0)
            if isinstance(module, (nn.Linear, nn.Conv2d)) or node.target is F.linear:
                if isinstance(value, fx.Node) and self._is_pooled(value):
                    inputs.add(value)
            elif isinstance(module, PASSES) or (module is None and operation(node) in SUMS | RESHAPES):
                pending.extend(other for other in node.all_input_nodes if other in self.traced.image_values)
        return sorted(inputs, key=self.traced.order.__getitem__)

    def ends(self) -> list[str]:
        """The names of layers that could be named: of each way through the network the last map, or first norm of a block of tokens."""
        order, ends = self.traced.order, list[fx.Node]()
        paths = {node: path for path, calls in self.traced.calls.items() for nodes in calls for node in nodes if self.format(node)}
        nodes = paths.keys() - self.view.images - self.view.mirrored
        likely = {node for node in nodes if self._kind(node) != "tokens" or paths[node].rpartition(".")[2] in FIRST_NORMS}
        nodes = likely or nodes
        for node in sorted(nodes, key=order.__getitem__, reverse=True):
            if descendants(order, [node]).isdisjoint(ends):
                ends.append(node)
        return [self.name(node).partition(":")[0] for node in reversed(ends)]

    def _is_pooled(self, node: fx.Node) -> bool:
        """Whether a value is one vector per image: [B, D] or [B, D, 1, 1]."""
        dims = self.traced.dims(node)
        return len(dims) >= 2 and dims[0] == 2 and max(dims[2:], default=1) == 1

    def _kind(self, node: fx.Node) -> str | None:
        grid_format = self.format(node)
        return grid_format.kind if grid_format else None

    def _before_pooling(self, node: fx.Node) -> fx.Node:
        """Back from a map over pooling, dropout and mere rearrangement to the module's output behind them."""
        while isinstance(value := argument(node, 0), fx.Node) and self._kind(value) in ("nchw", "nhwc"):
            module = self._module(node)
            passes = isinstance(module, PASSES) or (module is None and operation(node) in REARRANGES)
            if not (isinstance(module, POOLS) or node.target in POOLING or (passes and not self._blocks(node))):
                break
            node = value
        return node

    def _blocks(self, node: fx.Node) -> list[str]:
        """The modules that return this value and do more than pass one on."""
        paths = [path for path, nodes in self.traced.returned.items() if path and node in nodes]
        return [path for path in paths if not isinstance(self.network.get_submodule(path), PASSES)]

    def _module(self, node: fx.Node) -> nn.Module | None:
        return module_of(self.traced.module, node)


def _in_classifier(node: fx.Node) -> bool:
    """VGG runs its fully connected layers as convolutions, which leave a map of their own where images are larger than 224."""
    return any(path.endswith("pre_logits") for path, _ in node.meta.get("nn_module_stack", {}).values())
