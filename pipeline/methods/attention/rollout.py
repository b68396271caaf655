"""Attention rollout (Abnar and Zuidema 2020, section 3): attention through all blocks, each half itself and half the blocks before it.

The first row of a product of matrices is that row carried through them from the left, so no matrix is multiplied by another.
"""

from pipeline.families import Whole, attention


@attention
def rollout(A, *, start: Whole = 0):
    row = A[-1].new_zeros(A[-1].shape[:2])
    row[:, 0] = 1
    for mean in reversed(A[start:]):
        row = row / (1 + mean.sum(2))  # rows of I + mean, each divided by its sum
        row = row + (row[:, None] @ mean)[:, 0]
    return row
