"""A network whose last layers are drawn anew, one after the other: does a map that ought to explain the weights change?

Each layer is drawn by its own `reset_parameters`, as a network that was never trained has it; batch normalisation forgets its statistics.
Parameters that no layer resets, such as a class token, stay.
"""

import copy
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import nn

from pipeline.backbones import Backbone, like
from pipeline.families import Randomised
from pipeline.refusal import Refusal

_CACHE: WeakKeyDictionary[Backbone, dict[Randomised, list[Backbone]]] = WeakKeyDictionary()


def randomised(backbone: Backbone, change: Randomised) -> list[Backbone]:
    """The backbone with its last 1, 2, ... layers drawn anew, made once."""
    backbones = _CACHE.setdefault(backbone, {})
    if change not in backbones:
        networks = enumerate(randomised_networks(backbone.network, change), 1)
        backbones[change] = [
            like(backbone, network, f"{backbone.identity}, {step} layers drawn").to(backbone.device) for step, network in networks
        ]
    return backbones[change]


def randomised_networks(network: object, change: Randomised) -> Iterator[nn.Module]:
    """Copies of a network with its last 1, 2, ... layers drawn anew."""
    layers = last_layers(network, change)
    assert isinstance(network, nn.Module), "others have no layers"
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


def last_layers(network: object, change: Randomised) -> list[list[str]]:
    """The modules of each layer to be drawn, the last layer first.

    Where they are not named, a layer of a timm network is the classifier or one of its stages (fc, layer4 ... layer1 of a ResNet) or
    blocks; of any other network, a module with parameters of its own.

    Raises:
        Refusal: where there are not so many, or one is not there.
    """
    if not isinstance(network, nn.Module):
        raise Refusal(f"layers are drawn anew in torch modules, and the backbone is a {type(network).__name__}")
    modules = [name for name, module in network.named_modules() if next(module.parameters(recurse=False), None) is not None]
    if change.layers:
        layers = [[name for name in modules if f"{name}.".startswith(f"{layer}.")] for layer in change.layers]
        unknown = [layer for layer, names in zip(change.layers, layers, strict=True) if not names]
        if unknown:
            raise Refusal(f"the network has no layer {unknown[0]!r} with parameters; its last one is {modules[-1]!r}")
        return layers
    layers = _stages(network, modules)[::-1][: change.steps]
    if len(layers) < change.steps:
        raise Refusal(f"{change.steps} layers are to be drawn anew, and the network has {len(layers)}")
    return layers


def _stages(network: nn.Module, modules: list[str]) -> list[list[str]]:
    """The layers of a network, first one first."""
    group_matcher = getattr(network, "group_matcher", None)
    if group_matcher is None:
        return [[name] for name in modules]
    from timm.models import group_modules

    return list(group_modules(network, group_matcher(coarse=True)).values())
