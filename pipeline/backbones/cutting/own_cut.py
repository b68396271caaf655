"""An object that brings its own trunk and head.

B images, K channels, h w cells, C classes, D features.
"""

import inspect
from collections.abc import Iterable
from typing import Protocol, TypeGuard

import torch
from torch import Tensor, nn

from pipeline.backbones.cutting.graph import first_line
from pipeline.refusal import Refusal


class TrunkAndHead(Protocol):
    """The object; it may bring a `readout` (see `Backbone`), the name of its `layer` and an `identity` too."""

    def trunk(self, x: Tensor) -> tuple[Tensor, Iterable[Tensor]]: ...

    def head(self, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor: ...


def has_own_cut(network: object) -> TypeGuard[TrunkAndHead]:
    """Whether an object brings its own trunk and head. Submodules of these names, as many networks have, are not meant."""
    parts = [getattr(network, name, None) for name in ("trunk", "head")]
    return all(callable(part) and not isinstance(part, nn.Module) for part in parts)


class OwnCut:
    """An object with trunk and head of its own, used as it is once two images have passed through.

    Raises:
        Refusal: where what they return is not A [B, K, h, w], a tuple of tensors [B, ...], and logits [B, C].
    """

    def __init__(self, network: TrunkAndHead, images: Tensor, layer: str | None) -> None:
        self.network, self.layer = network, str(getattr(network, "layer", "own"))
        if layer:
            raise Refusal(f"--layer {layer} is for networks cut here; this one brings its own trunk and head, so cut it there")
        for module in self._modules().values():
            module.eval().requires_grad_(False)
        try:
            with torch.no_grad():
                A, rest = self.trunk(images)
                _refuse_other("trunk", "A [B, K, h, w]", A, 4)
                for value in rest:
                    _refuse_other("trunk", "rest, a tuple of tensors [B, ...]", value)
                _refuse_other("head", "logits [B, C]", self.head(A, rest), 2)
        except Refusal:
            raise
        except Exception as error:  # the user's code
            raise Refusal(f"the backbone's own trunk and head fail on images {list(images.shape)} ({first_line(error)})") from error

    @property
    def code(self) -> str:
        """The source that defines it, or its `identity` where it has one."""
        identity = getattr(self.network, "identity", None)
        return identity if isinstance(identity, str) else inspect.getsource(inspect.getmodule(type(self.network)) or type(self.network))

    def trunk(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        A, rest = self.network.trunk(x)
        return A, tuple(rest)

    def head(self, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        return self.network.head(A, rest)

    def readout(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        if hasattr(self.network, "readout"):
            return self.network.readout(A, rest)
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
        """The object, where it is a module, or the modules that are its attributes."""
        if isinstance(self.network, nn.Module):
            return {"": self.network}
        return {name: value for name, value in vars(self.network).items() if isinstance(value, nn.Module)}


def _refuse_other(part: str, expected: str, value: object, dims: int | None = None) -> None:
    """Refuse a value that is no tensor of two images, or has another number of dimensions."""
    if not isinstance(value, Tensor) or value.dim() != (dims or value.dim()) or value.shape[:1] != (2,):
        kind = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise Refusal(f"the backbone's own {part} gave {kind} for 2 images; wanted is {expected}")
