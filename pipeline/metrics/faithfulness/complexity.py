"""Complexity (ADCC, Poppi et al. 2021): the map's mean, its L1 norm over the number of pixels."""

from pipeline.families import metric


@metric(better="lower", family="faithfulness")
def complexity(S):
    return S.mean()
