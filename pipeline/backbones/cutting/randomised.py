"""A network whose last layers are drawn anew, one after the other: what is left of a map that ought to explain the weights?

Each layer is drawn by its own `reset_parameters`, as a network that was never trained has it; batch normalisation forgets its statistics.
What no layer resets, such as a class token, stays.
"""

import copy
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pipeline.backbones import Backbone, like
from pipeline.families import Randomised
from pipeline.refusal import Refusal

_MADE: WeakKeyDictionary[Backbone, dict[Randomised, list[Backbone]]] = WeakKeyDictionary()


def randomised(backbone: Backbone, change: Randomised) -> list[Backbone]:
    """The backbone with its last 1, 2, ... layers drawn anew, made once."""
    made = _MADE.setdefault(backbone, {})
    if change not in made:
        networks = enumerate(networks_of(backbone.network, change), 1)
        made[change] = [like(backbone, each, f"{backbone.identity}, {step} layers drawn").to(backbone.device) for step, each in networks]
    return made[change]


def networks_of(network: nn.Module, change: Randomised) -> Iterator[nn.Module]:
    """Copies of a network with its last 1, 2, ... layers drawn anew."""
    layers = last(network, change)
    network = copy.deepcopy(network).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(change.seed)
        state = torch.get_rng_state()
        for names in layers:
            torch.set_rng_state(state)
            for name in names:
                _reset(network.get_submodule(name))
            state = torch.get_rng_state()
            yield copy.deepcopy(network)


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if reset:
        reset()


def last(network: object, change: Randomised) -> list[list[str]]:
    """The modules of each layer to be drawn, the last layer first.

    Where they are not named, a layer of a timm network is the classifier or one of its stages (fc, layer4 ... layer1 of a ResNet) or
    blocks; of any other network, a module with parameters of its own.

    Raises:
        Refusal: where there are not so many, or one is not there.
    """
    if not isinstance(network, nn.Module):
        raise Refusal(f"layers are drawn anew in torch modules, and the backbone is a {type(network).__name__}")
    with_parameters = [name for name, module in network.named_modules() if next(module.parameters(recurse=False), None) is not None]
    if change.layers:
        found = [[name for name in with_parameters if f"{name}.".startswith(f"{layer}.")] for layer in change.layers]
        unknown = [layer for layer, names in zip(change.layers, found, strict=True) if not names]
        if unknown:
            raise Refusal(f"the network has no layer {unknown[0]!r} with parameters; its last one is {with_parameters[-1]!r}")
        return found
    found = _stages(network, with_parameters)[::-1][: change.steps]
    if len(found) < change.steps:
        raise Refusal(f"{change.steps} layers are to be drawn anew, and the network has {len(found)}")
    return found


def _stages(network: nn.Module, with_parameters: list[str]) -> list[list[str]]:
    """The layers of a network, first one first."""
    if not hasattr(network, "group_matcher"):
        return [[name] for name in with_parameters]
    from timm.models import group_modules

    return list(group_modules(network, network.group_matcher(coarse=True)).values())
