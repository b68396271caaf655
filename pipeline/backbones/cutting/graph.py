"""A network as a graph of values, and that graph in two halves.

Nothing is hooked: torch.fx writes the network's forward down once, and each half is a program of its own over the same modules.
"""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from pipeline.refusal import Refusal

AUGMENTED = {getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "pow", "matmul")}
OWN_CUT = "give --backbone my_module:build, where build returns an object with trunk(x) -> (A, rest) and head(A, rest) -> logits"


@dataclass(frozen=True)
class Shape:
    """Stands for a tensor among the values of a graph."""

    dims: tuple[int, ...]
    channels_last: bool


class _Called(nn.Module):
    """A network called with one image tensor, so that its other arguments keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class _Tracer(fx.Tracer):
    """Writes a forward down, remembering what every module, inlined or not, returned."""

    def __init__(self) -> None:
        from timm.layers import get_notrace_functions, get_notrace_modules  # lists that timm's models fill as they are imported

        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.opaque = tuple(get_notrace_modules())
        self.returned: dict[str, list[fx.Node]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.opaque) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward, args: tuple, kwargs: dict):
        value = super().call_module(m, forward, args, kwargs)
        parts = value if isinstance(value, (tuple, list)) else [value]
        self.returned[self.path_of_module(m).partition(".")[2]] = [part.node for part in parts if isinstance(part, fx.Proxy)]
        return value


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the shape of every tensor, and every other value as it is."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[fx.Node, object] = {}

    def run_node(self, n: fx.Node):
        value = super().run_node(n)
        self.seen[n] = _describe(value)
        return value


def _describe(value: object) -> object:
    if isinstance(value, Tensor):
        last = value.dim() == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
        return Shape(tuple(value.shape), last)
    return tuple(map(_describe, value)) if isinstance(value, (tuple, list)) else value


def _holds_tensor(value: object) -> bool:
    return any(map(_holds_tensor, value)) if isinstance(value, tuple) else isinstance(value, Shape)


@dataclass(frozen=True)
class Traced:
    """A network's forward, written down.

    Attributes:
        module: the graph with the network's own modules.
        answer: the network's own logits [2, C] for the two images it was traced with.
        returned: module path -> the values it returned when it was last called; the network itself is "".
        one, two: what each node holds for a batch of one and of two images.
    """

    module: fx.GraphModule
    answer: Tensor
    returned: dict[str, list[fx.Node]]
    one: dict[fx.Node, object]
    two: dict[fx.Node, object]

    @cached_property
    def order(self) -> dict[fx.Node, int]:
        return {node: position for position, node in enumerate(self.module.graph.nodes)}

    @cached_property
    def logits(self) -> fx.Node:
        return self.module.graph.output_node().args[0]

    @cached_property
    def carriers(self) -> set[fx.Node]:
        """The values that hold something of the image, not of its size or of the parameters alone."""
        found: set[fx.Node] = set()
        for node in self.order:
            if node.op == "placeholder" or (self.holds_tensor(node) and not found.isdisjoint(node.all_input_nodes)):
                found.add(node)
        return found

    def holds_tensor(self, node: fx.Node) -> bool:
        return _holds_tensor(self.two[node])

    def dims(self, node: fx.Node) -> tuple[int, ...]:
        """Dimensions of a tensor for a batch of two; empty for anything else."""
        value = self.two.get(node)
        return value.dims if isinstance(value, Shape) else ()

    def behind(self, start: fx.Node) -> set[fx.Node]:
        """`start` and everything computed from it."""
        found = {start}
        for node in self.order:
            if not found.isdisjoint(node.all_input_nodes):
                found.add(node)
        return found

    def before(self, ends: Iterable[fx.Node]) -> set[fx.Node]:
        """`ends` and everything they are computed from."""
        found = set(ends)
        for node in reversed(self.order):
            if node in found:
                found.update(node.all_input_nodes)
        return found

    def spine(self) -> list[fx.Node]:
        """The values through which all that reaches the logits must pass, in order: no branch runs beside them."""
        used = self.before([self.logits])
        line = [node for node in self.order if node in self.carriers and node in used]
        members = set(line)
        last = {node: max((self.order[user] for user in node.users if user in members), default=0) for node in line}
        found, alive = [], set()
        for node in line:
            alive = {other for other in alive if last[other] > self.order[node]}
            if not alive:
                found.append(node)
            alive.add(node)
        return found


def trace(network: nn.Module, images: Tensor) -> Traced:
    """Write down what `network` (in eval mode) does to two images [2, 3, H, W].

    Raises:
        Refusal: where it does not take such images, does not return logits [B, C], or decides in Python on values.
    """
    try:
        with torch.no_grad():
            answer = network(images)
    except Exception as error:  # whatever a network's own Python raises
        raise Refusal(f"the network does not take images of {tuple(images.shape[1:])} ({line(error)}); give --image-size") from error
    if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != 2:
        shown = f"a tensor {list(answer.shape)}" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
        raise Refusal(f"the network returns {shown} for 2 images, not logits [B, C]; {OWN_CUT}")
    tracer = _Tracer()
    try:
        module = fx.GraphModule(called := _Called(network), tracer.trace(called))
        _out_of_place(module)
        one, two = _Recorder(module), _Recorder(module)
        with torch.no_grad():
            one.run(images[:1])
            two.run(images)
    except Exception as error:
        raise Refusal(f"the network cannot be traced ({line(error)}); {OWN_CUT}") from error
    return Traced(module, answer, tracer.returned, one.seen, two.seen)


def written(network: nn.Module, images: Tensor, forward: Callable) -> tuple[fx.GraphModule, dict[fx.Node, object]]:
    """A method of `network` as a program over those of its modules that it uses, and what each of its values holds for these images."""

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> object:
            return forward(x)

    graph = _Tracer().trace(Called())
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("network.")
    module = fx.GraphModule(network, graph, type(network).__name__)
    recorder = _Recorder(module)
    with torch.no_grad():
        recorder.run(images)
    return module, recorder.seen


def line(error: Exception) -> str:
    """An exception as one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def _out_of_place(module: fx.GraphModule) -> None:
    """Let every operation leave its input as it was, since a half runs many times over the same A and rest.

    What used the input after it had been changed uses the result instead.
    """
    changing = {name for name, part in module.named_modules() if getattr(part, "inplace", False)}
    for name in changing:
        module.get_submodule(name).inplace = False
    order = {node: position for position, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        if (node.op == "call_module" and node.target in changing) or _purified(node):
            node.args[0].replace_all_uses_with(node, delete_user_cb=lambda user, here=order[node]: order[user] > here)
    module.recompile()


def _purified(node: fx.Node) -> bool:
    """Turn an operation that changes its input into the one that does not; False where it was none."""
    if node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
        node.target = node.target[:-1]
    elif node.op == "call_function" and node.target in AUGMENTED:
        node.target = AUGMENTED[node.target]
    elif node.op == "call_function" and node.kwargs.get("inplace"):
        node.kwargs = node.kwargs | {"inplace": False}
    else:
        return False
    return True
