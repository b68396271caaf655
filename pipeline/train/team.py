"""The workers of one training, and their sums. A worker alone adds nothing up and waits for nobody."""

from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Team:
    """This worker among `size`, and among the `local_size` of its machine; with more than one, torch.distributed is up."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    def add(self, values: Tensor) -> Tensor:
        """The sum over all workers, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until every worker is here."""
        if self.size > 1:
            distributed.barrier()

    def add_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """The gradients' sum over all workers, as one message; a worker whose share of the batch is empty has none."""
        if self.size == 1:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        self.add(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def average(self, buffers: list[Tensor]) -> None:
        """Running statistics as their mean over the workers, each of which saw other images."""
        if self.size > 1 and buffers:
            flat = self.add(torch.cat([buffer.flatten() for buffer in buffers])) / self.size
            for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
                buffer.copy_(part.view_as(buffer))
