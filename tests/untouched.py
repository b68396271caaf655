"""What no method may leave behind on a network."""

from torch import nn


def assert_untouched(network: nn.Module) -> None:
    """No hooks, nothing in training, no gradients and none asked for, in any module."""
    for module in network.modules():
        assert not {**module._forward_hooks, **module._forward_pre_hooks, **module._backward_hooks}
        assert not module.training
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in module.parameters())
