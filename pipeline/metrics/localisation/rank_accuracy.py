"""Relevance rank accuracy (Arras et al. 2022): of as many highest pixels as the object has, the share that lies on it.

Of pixels with the same value the expectation over their orders counts. By chance it is the object's share of the image.
"""

from pipeline.families import metric
from pipeline.maps.ranks import expected_inside


@metric
def rank_accuracy(S, positive, counted):
    size = int(positive[counted].sum())
    return expected_inside(S[counted], positive[counted], size) / size
