"""Calls about the images of a batch that may fail: for want of memory, over one image, or over every one."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipeline.refusal import Refusal, counted, one_line

log = logging.getLogger(__name__)
GIVEN_UP = 32  # images that failed by themselves, while none worked: others are then hardly tried
PROBES = 4  # images of a later batch that are tried by themselves all the same


class Attempts:
    """The calls of one process, by the name of what is computed, and whether any has ever worked.

    A call that runs out of memory is made again in halves. One that fails otherwise is made again for each image by itself, so that a
    bad image never takes its neighbours along; but not where it has failed for `GIVEN_UP` images by themselves and never worked, nor where
    it was refused: a refusal is about the method, not about an image.
    """

    def __init__(self):
        self.worked: set[str] = set()
        self.told: set[str] = set()
        self.failed: Counter[str] = Counter()  # images by themselves

    def __call__(self, name: str, count: int, compute: Callable[[Sequence[int]], Sequence[Any]]) -> list[Any]:
        """`compute(positions)` of a batch of `count` images, a result each; where it fails for an image, the exception is its result."""
        results = self._try(name, range(count), compute)
        first = results[0] if results else None
        if isinstance(first, Exception) and name not in self.worked | self.told:
            self.told.add(name)
            log.warning("%s fails on all of %s: %s: %s", name, counted(count, "images"), type(first).__name__, one_line(first))
        return results

    def _try(self, name: str, positions: Sequence[int], compute: Callable[[Sequence[int]], Sequence[Any]]) -> list[Any]:
        try:
            results = list(compute(positions))
            self.worked.add(name)
            return results
        except Exception as error:  # the code of a method, a metric or a network, which may be a user's
            failure = error.with_traceback(None)
        # only now: the exception held on to the memory of the batch
        if len(positions) == 1:
            self.failed[name] += 1
        if len(positions) == 1 or isinstance(failure, Refusal):
            return [failure] * len(positions)
        if _is_out_of_memory(failure):
            half = len(positions) // 2
            return self._try(name, positions[:half], compute) + self._try(name, positions[half:], compute)
        by_position: dict[int, Any] = {}
        for tried, position in enumerate(_from_both_ends(positions)):
            if tried >= PROBES and self.failed[name] >= GIVEN_UP and name not in self.worked:
                break
            [by_position[position]] = self._try(name, [position], compute)
        return [by_position.get(position, failure) for position in positions]


def _from_both_ends(positions: Sequence[int]) -> list[int]:
    """Positions in the order to try them: first, last and two between, since neighbours are often alike, then the others."""
    last = len(positions) - 1
    probes = dict.fromkeys(positions[i] for i in (0, last, last // 3, 2 * last // 3))
    return list(dict.fromkeys([*probes, *positions]))


def _is_out_of_memory(error: Exception) -> bool:
    """Whether less at a time may help. Not every allocator has a type of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "memory" in str(error).lower()
