"""What no method may leave behind on a network."""

from dataclasses import replace

import torch
from torch import nn

from pipeline import engine
from pipeline.methods import METHODS
from pipeline.spec.grammar import parse
from tests.scenes import scene


def assert_untouched(network: nn.Module) -> None:
    """No hooks, nothing in training, no gradients and none asked for, in any module."""
    for module in network.modules():
        assert not {**module._forward_hooks, **module._forward_pre_hooks, **module._backward_hooks}
        assert not module.training
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.parameters())


def maps_that_leave_nothing(method: str, backbone, pixels, precision: str) -> torch.Tensor:
    """The maps of a method as written: finite, in single precision, of no gradient; and the network is as it was."""
    maps = engine.maps(parse(method, METHODS, "method"), replace(scene(backbone, pixels), precision=precision), 0)
    assert maps.isfinite().all()
    assert not maps.requires_grad
    assert maps.dtype == torch.float32
    assert_untouched(backbone.cut)
    return maps
