"""The networks and tensors that an object holds, wherever they hide, and those that it computes with."""

import dis
import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

LEAVES = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, CodeType, torch.dtype, torch.device)
LIBRARIES = ("builtins", "collections", "functools", "torch", "types")  # code that is never the user's


@dataclass
class Holdings:
    """What an object holds, by path: `networks[0]`, `trunk.net` of a closure's variable.

    Attributes:
        modules: modules, those that are attributes first; none of whose tensors are all another's before.
        around: modules around those alone, with no tensor of their own.
        tensors: those beside the modules' own.
    """

    modules: dict[str, nn.Module] = field(default_factory=dict)
    around: list[nn.Module] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def outermost(self) -> list[nn.Module]:
        """The modules that lie in no other."""
        modules = list(dict.fromkeys([*self.modules.values(), *self.around]))
        inner = {part for module in modules for part in module.modules() if part is not module}
        return [module for module in modules if module not in inner]


def holdings(holder: object) -> Holdings:
    """The modules and tensors that an object holds: in attributes, slots, fields, lists, tuples and dictionaries, in the variables of
    closures, defaults, partial and bound functions, and in global variables that functions of the object's own module name.
    """
    found, home = Holdings(), home_of(holder)
    seen, covered, pending = {id(holder)}, set[int](), deque([("", holder, 0)])
    while pending:
        path, value, depth = pending.popleft()
        if isinstance(value, Tensor):
            found.tensors[path] = value
            continue
        if isinstance(value, nn.Module) and (depth < 2 or id(value) not in covered):
            parts = [*value.parameters(), *value.buffers()]
            if depth < 2 or not parts or any(id(part) not in covered for part in parts):
                found.modules[path] = value
            else:
                found.around.append(value)
            covered.update(map(id, (*value.modules(), *parts)))
        for name, part in _parts(value, home):
            if isinstance(part, LEAVES) or (id(part) in seen and not (depth == 0 and isinstance(part, nn.Module))):
                continue
            seen.add(id(part))
            pending.append((f"{path}.{name}" if path and not name.startswith("[") else path + name, part, depth + 1))
    return found


def home_of(holder: object) -> set[str]:
    """The names of the modules that an object's code is of: its class's, and those of functions that it was made of."""
    functions = (plain_function(getattr(holder, name, None)) for name in ("trunk", "head", "readout"))
    names = {type(holder).__module__, *(function.__module__ for function in functions if function)}
    return {name for name in names if name and name.partition(".")[0] not in LIBRARIES}


def plain_function(value: object) -> FunctionType | None:
    """The function inside a bound method, a partial or a wrapper; None where there is none."""
    while not isinstance(value, FunctionType):
        value = getattr(value, "__func__", None) or getattr(value, "func", None) or getattr(value, "__wrapped__", None)
        if value is None:
            return None
    return value


def _parts(value: Any, home: set[str]) -> Iterator[tuple[str, object]]:
    """What a value holds itself, each part with its name."""
    if isinstance(value, dict):
        for i, (key, part) in enumerate(value.items()):
            yield key if isinstance(key, str) and key.isidentifier() else f"[{key if isinstance(key, (str, int)) else i}]", part
    elif isinstance(value, (list, tuple, deque)):
        names = getattr(value, "_fields", None) or [f"[{i}]" for i in range(len(value))]
        yield from zip(names, value, strict=True)
    elif isinstance(value, FunctionType):
        yield from _parts_of_function(value, home)
    elif isinstance(value, MethodType):
        yield from (("self", value.__self__), ("function", value.__func__))
    elif isinstance(value, BuiltinMethodType):
        yield "self", value.__self__
    elif isinstance(value, functools.partial):
        yield from (("function", value.func), ("arguments", value.args), ("keywords", value.keywords))
    elif isinstance(value, (staticmethod, classmethod)):
        yield "function", value.__func__
    elif isinstance(value, property):
        yield "function", value.fget
    if hasattr(value, "__dict__"):
        yield from vars(value).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if kind.__module__.partition(".")[0] not in LIBRARIES and hasattr(value, name):
                yield name, getattr(value, name)
        if kind.__module__ in home:
            yield from ((name, part) for name, part in vars(kind).items() if name not in ("__dict__", "__weakref__"))


def _parts_of_function(function: FunctionType, home: set[str]) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
    yield from ((f"[{i}]", value) for i, value in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    if function.__module__ in home:
        yield from ((name, function.__globals__[name]) for name in _global_names(function.__code__) if name in function.__globals__)


def _global_names(code: CodeType) -> Iterator[str]:
    """The global variables that a function's code reads, those of the functions inside it too."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


class TensorsRead(TorchFunctionMode):
    """While it is on, every tensor that torch computes with and has not made meanwhile is kept, by the address of its memory."""

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self.read: dict[int, Tensor] = {}
        self._made = {0, *map(address, inputs)}  # 0 is the address of what is empty

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        value = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and address(tensor) not in self._made:
                self.read.setdefault(address(tensor), tensor)
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor) and address(tensor) not in self.read:
                self._made.add(address(tensor))
        return value


def address(tensor: Tensor) -> int:
    """Where a tensor's memory begins: views of one tensor have one. 0 where it has none of its own."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
