"""The movement of the weights: the optimiser, its rate at every step, and its memory from one epoch to the next."""

import math

import torch
from torch import Tensor, nn

from pipeline.train.job import Training

RISE, LOW = 0.2, 0.04  # of a cycle: the share in which the rate rises, and the fraction of the highest that it rises from


def optimiser(job: Training, groups: list[dict]) -> torch.optim.Optimizer:
    """SGD with Nesterov's momentum, or AdamW, over parts of the network with a rate each."""
    if job.optimiser == "adamw":
        return torch.optim.AdamW(groups, betas=(job.momentum, 0.999), weight_decay=job.weight_decay)
    return torch.optim.SGD(groups, momentum=job.momentum, weight_decay=job.weight_decay, nesterov=True)


def factor(job: Training, epoch: float) -> float:
    """The schedule's factor of the rates after `epoch` epochs of all layers; a fraction is a place within an epoch.

    A tenth after every `decay_every`, as CALM's code has it; or one cycle (Smith and Topin 2018) of cosines that ends at zero.
    """
    if job.schedule == "steps":
        return 0.1 ** (int(epoch) // job.decay_every)
    done = epoch / job.epochs
    if done < RISE:
        return LOW + (1 - LOW) * (1 - math.cos(math.pi * done / RISE)) / 2
    return (1 + math.cos(math.pi * (done - RISE) / (1 - RISE))) / 2


def memory_of(network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors (momentum, moments, steps) as `<kind>.<parameter's name>`."""
    tensors = [(name, optimiser.state[value]) for name, value in network.named_parameters() if value in optimiser.state]
    return {f"{kind}.{name}": tensor for name, kinds in tensors for kind, tensor in kinds.items() if tensor is not None}


def restore_memory(network: nn.Module, optimiser: torch.optim.Optimizer, memory: dict[str, Tensor]) -> None:
    """Give a new optimiser the tensors of `memory_of` that belong to parameters it moves."""
    movable = {id(value) for group in optimiser.param_groups for value in group["params"]}
    parameters = {name: value for name, value in network.named_parameters() if id(value) in movable}
    for key, tensor in memory.items():
        kind, _, name = key.partition(".")
        if name in parameters:
            # AdamW counts its steps on the CPU, whatever the device
            optimiser.state[parameters[name]][kind] = tensor.to("cpu" if kind == "step" else parameters[name].device).clone()
