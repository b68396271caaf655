"""The user's own network: `my_module:build`."""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.backbones.cutting.graph import line
from pipeline.refusal import Refusal


def build(name: str, args: Mapping[str, object], *, seed: int) -> object:
    """What `build(**args)` of the module returns: a torch module, or an object with trunk and head.

    The module is found as Python finds it, in the working directory first. Random weights are drawn from `seed`.

    Raises:
        Refusal: where the module or function cannot be had, or the function fails.
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code
        raise Refusal(f"--backbone {name}: {module_name!r} cannot be imported from {os.getcwd()} ({line(error)})") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = ", ".join(key for key, value in vars(module).items() if inspect.isfunction(value)) or "none"
        raise Refusal(f"--backbone {name}: {module_name} has no function {function_name!r}; it has {known}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = function(**args)
    except Exception as error:
        raise Refusal(f"--backbone {name} failed with {dict(args)} ({line(error)})") from error
    if not isinstance(built, nn.Module) and not is_cut(built):
        raise Refusal(
            f"--backbone {name} returned a {type(built).__name__}; return a torch.nn.Module, "
            f"or an object with trunk(x) -> (A, rest) and head(A, rest) -> logits"
        )
    return built


def is_cut(built: object) -> bool:
    """Whether an object brings its own trunk and head. Submodules of these names, as many networks have, are not meant."""
    parts = [getattr(built, name, None) for name in ("trunk", "head")]
    return all(callable(part) and not isinstance(part, nn.Module) for part in parts)


class OwnCut:
    """An object with trunk and head of its own, used as it is once two images have passed through.

    Raises:
        Refusal: where what they return is not A [B, K, h, w], a tuple of tensors [B, ...], and logits [B, C].
    """

    def __init__(self, built: object, images: Tensor, layer: str | None) -> None:
        self.built, self.layer = built, str(getattr(built, "layer", "own"))
        if layer:
            raise Refusal(f"--layer {layer} is for networks cut here; this one brings its own trunk and head, so cut it there")
        for module in self._modules().values():
            module.eval().requires_grad_(False)
        try:
            with torch.no_grad():
                A, rest = self.trunk(images)
                self._checked("trunk", "A [B, K, h, w]", A, 4)
                for other in rest:
                    self._checked("trunk", "rest, a tuple of tensors [B, ...]", other)
                self._checked("head", "logits [B, C]", self.head(A, rest), 2)
        except Refusal:
            raise
        except Exception as error:  # the user's code
            raise Refusal(f"the backbone's own trunk and head fail on images {list(images.shape)} ({line(error)})") from error

    def _checked(self, part: str, wanted: str, value: object, dims: int | None = None) -> None:
        if not isinstance(value, Tensor) or value.dim() != (dims or value.dim()) or value.shape[:1] != (2,):
            shown = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise Refusal(f"the backbone's own {part} gave {shown} for 2 images; wanted is {wanted}")

    @property
    def code(self) -> str:
        """The source that defines it, or what it states as its `identity`."""
        stated = getattr(self.built, "identity", None)
        return stated if isinstance(stated, str) else inspect.getsource(inspect.getmodule(type(self.built)))

    def trunk(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        A, rest = self.built.trunk(x)
        return A, tuple(rest)

    def head(self, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        return self.built.head(A, rest)

    def readout(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        if hasattr(self.built, "readout"):
            return self.built.readout(A, rest)
        return self.head(A, rest), A.mean((2, 3))

    def parts(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        logits, feature = self.readout(A, rest)
        return logits, [feature]

    def to(self, device: torch.device | str) -> None:
        for module in self._modules().values():
            module.to(device)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"{owner}.{name}": value for owner, module in self._modules().items() for name, value in module.state_dict().items()}

    def _modules(self) -> dict[str, nn.Module]:
        """The object, where it is a module, or the modules it holds."""
        if isinstance(self.built, nn.Module):
            return {"": self.built}
        return {name: value for name, value in vars(self.built).items() if isinstance(value, nn.Module)}
