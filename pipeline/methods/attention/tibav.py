"""Transformer attribution (Chefer et al. 2021, eq. 13-14): attention's relevance times its gradient, carried through all blocks."""

from pipeline.families import Whole, attention


@attention(version=2)
def tibav(dA, RA, *, start: Whole = 0):
    row = dA[-1].new_zeros(dA[-1].shape[0], dA[-1].shape[2])
    row[:, 0] = 1
    for gradient, relevance in zip(reversed(dA[start:]), reversed(RA[start:]), strict=True):
        row = row + (row[:, None] @ (gradient * relevance).relu().mean(1))[:, 0]  # row (I + mean over heads)
    return row
