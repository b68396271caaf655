"""A network as a graph of values.

Nothing is hooked: torch.fx traces the network's forward once, and every part of the graph is a program of its own over the same modules.
"""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from pipeline.backbones.cutting.reachable import holdings
from pipeline.refusal import Refusal

AUGMENTED = {getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "pow", "matmul")}
OWN_CUT = "give --backbone my_module:build, where build returns an object with trunk(x) -> (A, rest) and head(A, rest) -> logits"


@dataclass(frozen=True)
class Shape:
    """Stands for a tensor among the values of a graph."""

    dims: tuple[int, ...]
    channels_last: bool


Value = Any  # of a node: a Shape for a tensor, a tuple of values, or the value itself


def module_of(root: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module of `root` that a node calls; None where it calls a function."""
    return root.get_submodule(node.target) if node.op == "call_module" and isinstance(node.target, str) else None


def operation(node: fx.Node) -> str:
    """The name of a node's operation: `flatten` for torch.flatten, Tensor.flatten and the like; the path of a module."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def argument(node: fx.Node, position: int, name: str = "") -> Any:
    """An argument of a node's operation, by position or by name: a node, a constant, or None where it is left out."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def source(node: fx.Node, position: int = 0, name: str = "") -> fx.Node:
    """An argument of a node's operation that is a value of the graph.

    Raises:
        TypeError: where it is a constant.
    """
    value = argument(node, position, name)
    if not isinstance(value, fx.Node):
        raise TypeError(f"argument {position} of {node.name!r} is the constant {value!r}")
    return value


def outputs(graph: fx.Graph) -> list[fx.Node]:
    """The values that a graph returns."""
    value: Any = graph.output_node().args[0]
    return list(value) if isinstance(value, (tuple, list)) else [value]


def descendants(order: Iterable[fx.Node], start: Iterable[fx.Node]) -> set[fx.Node]:
    """The values of `start` and everything computed from them; `order` holds all values of the graph."""
    nodes = set(start)
    for node in order:
        if not nodes.isdisjoint(node.all_input_nodes):
            nodes.add(node)
    return nodes


class _OneArgument(nn.Module):
    """A network called with one image tensor, so that its other arguments keep their defaults."""

    def __init__(self, network: nn.Module, method: Callable | None = None) -> None:
        super().__init__()
        self.network, self.method = network, method  # the name `network` is part of the identity of one's own networks

    def forward(self, x: Tensor) -> object:
        return self.network(x) if self.method is None else self.method(x)


class _Tracer(fx.Tracer):
    """Traces a forward and remembers the values that every module, inlined or not, returned."""

    def __init__(self) -> None:
        from timm.layers import get_notrace_functions, get_notrace_modules  # lists that timm's models fill as they are imported

        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.opaque = tuple(get_notrace_modules())
        self.calls: dict[str, list[list[fx.Node]]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.opaque) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward, args: tuple, kwargs: dict):
        value = super().call_module(m, forward, args, kwargs)
        parts = value if isinstance(value, (tuple, list)) else [value]
        path = self.path_of_module(m).partition(".")[2]
        self.calls.setdefault(path, []).append([part.node for part in parts if isinstance(part, fx.Proxy)])
        return value


class _ShapeRecorder(fx.Interpreter):
    """Runs a graph and keeps the shape of every tensor, and every other value as it is."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Value] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        self.values[n] = _shape_of(value)
        return value


def _shape_of(value: object) -> Value:
    if isinstance(value, Tensor):
        last = value.dim() == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
        return Shape(tuple(value.shape), last)
    return tuple(map(_shape_of, value)) if isinstance(value, (tuple, list)) else value


def _holds_tensor(value: Value) -> bool:
    return any(map(_holds_tensor, value)) if isinstance(value, tuple) else isinstance(value, Shape)


@dataclass(frozen=True)
class Traced:
    """A network's forward as a graph.

    Attributes:
        module: the graph with the network's own modules.
        output: the network's own logits [2, C] for the two images it was traced with.
        calls: module path -> the values of each of its calls; the network itself is "".
        one, two: the value of each node for a batch of one and of two images.
    """

    module: fx.GraphModule
    output: Tensor
    calls: dict[str, list[list[fx.Node]]]
    one: dict[fx.Node, Value]
    two: dict[fx.Node, Value]

    @cached_property
    def order(self) -> dict[fx.Node, int]:
        return {node: position for position, node in enumerate(self.module.graph.nodes)}

    @cached_property
    def returned(self) -> dict[str, list[fx.Node]]:
        """Module path -> the values of its last call."""
        return {path: calls[-1] for path, calls in self.calls.items()}

    @cached_property
    def logits(self) -> fx.Node:
        return outputs(self.module.graph)[0]

    @cached_property
    def image_values(self) -> set[fx.Node]:
        """The values that depend on the image's pixels, not on its size or on the parameters alone."""
        nodes: set[fx.Node] = set()
        for node in self.order:
            if node.op == "placeholder" or (self.holds_tensor(node) and not nodes.isdisjoint(node.all_input_nodes)):
                nodes.add(node)
        return nodes

    def holds_tensor(self, node: fx.Node) -> bool:
        return _holds_tensor(self.two[node])

    def dims(self, node: fx.Node) -> tuple[int, ...]:
        """Dimensions of a tensor for a batch of two; empty for anything else."""
        value = self.two.get(node)
        return value.dims if isinstance(value, Shape) else ()

    def ends_in(self, name: str, kind: type[nn.Module]) -> bool:
        """Whether the last operation, but for changes of shape, is a function of this name or a module of this kind."""
        node = self.logits
        while operation(node) in ("squeeze", "flatten", "view", "reshape", "contiguous", "float") and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        return operation(node) == name or isinstance(module_of(self.module, node), kind)

    def ancestors(self, ends: Iterable[fx.Node]) -> set[fx.Node]:
        """The values of `ends` and everything they are computed from."""
        nodes = set(ends)
        for node in reversed(self.order):
            if node in nodes:
                nodes.update(node.all_input_nodes)
        return nodes

    def spine(self) -> list[fx.Node]:
        """The values through which everything that reaches the logits must pass, in order: no branch runs beside them."""
        used = self.ancestors([self.logits])
        nodes = [node for node in self.order if node in self.image_values and node in used]
        members = set(nodes)
        last_use = {node: max((self.order[user] for user in node.users if user in members), default=0) for node in nodes}
        spine: list[fx.Node] = []
        alive: set[fx.Node] = set()
        for node in nodes:
            alive = {other for other in alive if last_use[other] > self.order[node]}
            if not alive:
                spine.append(node)
            alive.add(node)
        return spine


def trace(network: nn.Module, images: Tensor) -> Traced:
    """The graph of `network` (in eval mode) for two images [2, 3, H, W].

    Raises:
        Refusal: where it does not take such images, does not return logits [B, C], or decides in Python on values.
    """
    try:
        with torch.no_grad():
            output = network(images)
    except Exception as error:  # whatever a network's own Python raises
        advice = (
            _colour_advice(network, images) or f"does not take images of {tuple(images.shape[1:])} ({first_line(error)}); give --image-size"
        )
        raise Refusal(f"the network {advice}") from error
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != 2:
        kind = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise Refusal(f"the network returns {kind} for 2 images, not logits [B, C]; {OWN_CUT}")
    tracer = _Tracer()
    try:
        root = _OneArgument(network)
        module = fx.GraphModule(root, tracer.trace(root))
        _remove_in_place(module)
        one, two = _ShapeRecorder(module), _ShapeRecorder(module)
        with torch.no_grad():
            one.run(images[:1])
            two.run(images)
    except Exception as error:
        hidden = [path for path in holdings(network).modules if path]
        if hidden:
            raise Refusal(
                f"the network holds another one where torch does not see it ({hidden[0]}), so that its weights would stay behind; "
                f"hold it in an attribute, a torch.nn.ModuleList or a ModuleDict"
            ) from error
        raise Refusal(f"the network cannot be traced ({first_line(error)}); {OWN_CUT}") from error
    return Traced(module, output, tracer.calls, one.values, two.values)


def _colour_advice(network: nn.Module, images: Tensor) -> str:
    """The advice where a network takes another number of colours than 3: its first convolution says how many, and a pass that it is so."""
    convolutions = (part for part in network.modules() if isinstance(part, _ConvNd))
    channels = next((part.in_channels for part in convolutions if not isinstance(part, nn.modules.lazy.LazyModuleMixin)), 3)
    try:
        with torch.no_grad():
            network(images.new_zeros(len(images), channels, *images.shape[2:]))
    except Exception:  # then the colours are not the reason, or not the only one
        return ""
    grey = ", or let its forward begin with x = x.mean(1, keepdim=True)" if channels == 1 else ""
    return (
        f"takes images of {channels} channel{'s' * (channels > 1)}, and images here have 3 colours; build it for 3 (timm: in_chans=3){grey}"
    )


def refuse_probabilities(output: Tensor, of_sigmoid: bool = False) -> None:
    """Refuse outputs [2, C] that are probabilities already: they would be taken for logits, and made probabilities once more."""
    if of_sigmoid:
        raise Refusal("the network ends in a sigmoid, and would get another one; let it return its logits, and give --activation sigmoid")
    if output.shape[1] > 1 and bool((output >= 0).all()) and bool(((output.sum(1) - 1).abs() < 1e-4).all()):
        raise Refusal("the network returns probabilities (they add up to 1), and would get another softmax; let it return its logits")


def trace_method(network: nn.Module, method: Callable, images: Tensor) -> tuple[fx.GraphModule, dict[fx.Node, Value]]:
    """The graph of a method of `network` over those of its modules that it uses, and the value of each node for these images."""
    graph = _Tracer().trace(_OneArgument(network, method))
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = operation(node).removeprefix("network.")
    module = fx.GraphModule(network, graph, type(network).__name__)
    recorder = _ShapeRecorder(module)
    with torch.no_grad():
        recorder.run(images)
    return module, recorder.values


def first_line(error: Exception) -> str:
    """The kind of an exception and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def _remove_in_place(module: fx.GraphModule) -> None:
    """Let every operation leave its input as it was, since a half runs many times over the same A and rest.

    Every later user of an input that was changed uses the result instead.
    """
    changing = {name: part for name, part in module.named_modules() if getattr(part, "inplace", False)}
    for part in changing.values():
        part.inplace = False
    order = {node: position for position, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        changed = source(node) if node.op == "call_module" and node.target in changing else _make_functional(node)
        if changed:

            def comes_later(user: fx.Node, position: int = order[node]) -> bool:
                return order[user] > position

            changed.replace_all_uses_with(node, delete_user_cb=comes_later)
    module.recompile()


def _make_functional(node: fx.Node) -> fx.Node | None:
    """Turn an operation that changes a value into the one that does not; the value, or None where it changed none."""
    name = operation(node)
    in_place = name.endswith("_") and not name.endswith("__")
    if node.op == "call_method" and in_place:
        node.target = name[:-1]
    elif node.op == "call_function" and in_place and (function := getattr(torch, name[:-1], None) or getattr(F, name[:-1], None)):
        node.target = function
    elif node.op == "call_function" and node.target in AUGMENTED:
        node.target = AUGMENTED[node.target]
    elif node.op == "call_function" and node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    elif node.op == "call_function" and isinstance(changed := node.kwargs.get("out"), fx.Node):
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
        return changed
    else:
        return None
    return source(node, 0, "input")
