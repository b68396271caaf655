"""An object that brings its own trunk and head.

B images, K channels, h w cells, C classes, D features.
"""

import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pipeline.backbones.cutting.graph import first_line, refuse_probabilities
from pipeline.backbones.cutting.reachable import Holdings, TensorsRead, address, holdings, plain_function
from pipeline.backbones.stated import has_no_classifier
from pipeline.refusal import Refusal


class TrunkAndHead(Protocol):
    """The object; it may bring a `readout` (see `Backbone`), the name of its `layer` and an `identity` too."""

    def trunk(self, x: Tensor) -> tuple[Tensor, Iterable[Tensor]]: ...

    def head(self, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor: ...


def has_own_cut(network: object, images: Tensor | None = None) -> TypeGuard[TrunkAndHead]:
    """Whether an object brings its own trunk and head.

    Submodules of a torch module that have these names, as many networks have, are not meant, nor are methods of a module with a forward of
    its own whose head takes one value, or whose trunk does not give A and rest of `images`.
    """
    parts = [getattr(network, name, None) for name in ("trunk", "head")]
    if not isinstance(network, nn.Module):
        return all(map(callable, parts))
    if not all(callable(part) and not isinstance(part, nn.Module) for part in parts):
        return False
    if type(network).forward is nn.Module.forward:
        return True
    trunk, head = parts
    return _takes_two(head) and (images is None or _gives_two(network, trunk, images))


def _takes_two(head: Any) -> bool:
    try:
        inspect.signature(head).bind(None, ())
    except (TypeError, ValueError):
        return False
    return True


def _gives_two(network: nn.Module, trunk: Any, images: Tensor) -> bool:
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.no_grad():
            value = trunk(images)
    except Exception:  # a method for some other input
        return False
    finally:
        for module in training:
            module.training = True
    return isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[1], (tuple, list))


class OwnCut:
    """An object with trunk and head of its own, used as it is once images have passed through; its networks are frozen.

    Attributes:
        modules: its networks, by where they lie.
        tensors: the other tensors that decide its values.
        caches: tensors that a pass has left behind for the next, which decide nothing by themselves.

    Raises:
        Refusal: where what they return is not A [B, K, h, w], a tuple of tensors [B, ...], and logits [B, C]; where an image's logits
            depend on chance or on the images beside it.
    """

    def __init__(self, network: TrunkAndHead, images: Tensor, layer: str | None) -> None:
        self.network, self.layer = network, _layer(network)
        if layer:
            raise Refusal(f"--layer {layer} is for networks cut here; this one brings its own trunk and head, so cut it there")
        held = holdings(network)
        self.modules = held.modules
        for module in held.outermost():
            _freeze(module)
        self._readout = _own_readout(network)
        try:
            read, logits = self._pass(images)
            again, alone = self._pass(images[:1])
        except Refusal:
            raise
        except Exception as error:  # the user's code
            raise Refusal(f"the backbone's own trunk and head fail on images {list(images.shape)} ({first_line(error)})") from error
        if not has_no_classifier(network):
            refuse_probabilities(logits)
        # read in both passes and made in neither: weights, whatever holds them
        weights = {place: value for place, value in read.items() if place in again}
        self.tensors = _beside(held, weights)
        self.caches = [value for place, value in again.items() if place not in read]  # made in the first pass, kept for later ones
        for tensor in self.tensors.values():
            if tensor.is_leaf:
                tensor.requires_grad_(False)
        off = (alone - logits[:1]).abs().max().item()
        if off > 1e-3 * max(1.0, logits.abs().max().item()):
            raise Refusal(
                f"an image's logits are off by {off:.1e} where another image is beside it, or by chance: a network that is not in eval mode "
                f"hides where it is not found; keep it in an attribute of the object, or put it into eval mode in build"
            )

    def _pass(self, images: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """One pass: the tensors that it reads and has not made, by their addresses, and the logits."""
        count = len(images)
        with torch.no_grad(), TensorsRead(images) as tensors:
            A, rest = self.trunk(images)
            _refuse_other("trunk", "A [B, K, h, w]", A, count, 4)
            for value in rest:
                _refuse_other("trunk", "rest, a tuple of tensors [B, ...]", value, count)
            logits = self.head(A, rest)
            _refuse_other("head", "logits [B, C]", logits, count, 2)
            self.readout(A, rest)
        return tensors.read, logits

    @property
    def code(self) -> str:
        """The source that defines it, or its `identity` where it has one: of its class, or where that has no trunk and head of the
        functions that it was made of.

        Raises:
            Refusal: where there is no file with the source.
        """
        identity = getattr(self.network, "identity", None)
        if isinstance(identity, str):
            return identity
        kind = type(self.network)
        parts: list[Any] = [kind]
        if not all(callable(inspect.getattr_static(kind, name, None)) for name in ("trunk", "head")):
            values = [getattr(self.network, name) for name in ("trunk", "head", "readout") if hasattr(self.network, name)]
            parts = [plain_function(value) or type(value) for value in values]
        try:
            sources = [inspect.getsource(inspect.getmodule(part) or part) for part in parts]
        except (OSError, TypeError) as error:
            raise Refusal(
                f"the source of {kind.__qualname__} cannot be read ({first_line(error)}), so nobody would notice a change of it; write it "
                f"in a file, or give the object an `identity`"
            ) from error
        return "\n".join(dict.fromkeys(sources))

    def trunk(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        A, rest = self.network.trunk(x)
        return A, tuple(rest)

    def head(self, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        return self.network.head(A, rest)

    def readout(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return self._readout(A, rest) if self._readout else (self.head(A, rest), A.mean((2, 3)))

    def parts(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        logits, feature = self.readout(A, rest)
        return logits, [feature]

    def to(self, device: torch.device | str) -> None:
        for module in self.modules.values():
            module.to(device)
        for tensor in (*self.tensors.values(), *self.caches):
            tensor.data = tensor.data.to(device)

    def state_dict(self) -> dict[str, Tensor]:
        of_modules = {f"{owner}.{name}": value for owner, module in self.modules.items() for name, value in module.state_dict().items()}
        return of_modules | self.tensors


def _freeze(module: nn.Module) -> None:
    with suppress(NotImplementedError):  # a module of torch.export has no other mode
        module.eval()
    for name, value in module.named_parameters():
        if is_lazy(value):
            raise Refusal(f"{name} of the backbone's own networks has no shape yet; pass one image through them in build")
        value.requires_grad_(False)
    odd = next((name for name, value in module.state_dict().items() if not isinstance(value, Tensor)), None)
    if odd:
        raise Refusal(
            f"{odd} of the backbone's own networks is no tensor (a quantised layer has none), so its weights cannot be told apart"
        )


def _layer(network: object) -> str:
    """The name that the object gives to its layer."""
    layer = getattr(network, "layer", None)
    return str(layer) if isinstance(layer, (str, int)) else "own"


def _own_readout(network: object) -> Callable | None:
    """The object's own `readout`; an attribute of that name which does not take A and rest is none."""
    readout = getattr(network, "readout", None)
    return readout if callable(readout) and _takes_two(getattr(readout, "forward", readout)) else None


def _beside(held: Holdings, weights: dict[int, Tensor]) -> dict[str, Tensor]:
    """The weights that are no module's, by where they lie; those that were not found by their place in the order of reading."""
    own = {address(value) for module in held.modules.values() for value in (*module.parameters(), *module.buffers())}
    others = [place for place in weights if place not in own]
    found = {path: tensor for path, tensor in held.tensors.items() if address(tensor) in others}
    unfound = [place for place in others if place not in set(map(address, found.values()))]
    return found | {f"[{i}]": weights[place] for i, place in enumerate(unfound)}


def _refuse_other(part: str, expected: str, value: object, count: int, dims: int | None = None) -> None:
    """Refuse a value that is no tensor of `count` images, or has another number of dimensions."""
    if not isinstance(value, Tensor) or value.dim() != (dims or value.dim()) or value.shape[:1] != (count,):
        kind = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise Refusal(f"the backbone's own {part} gave {kind} for {count} images; wanted is {expected}")
