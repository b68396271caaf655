"""Top-k intersection (Theiner et al. 2022, as Quantus has it): the share of the k highest pixels that lies on the object.

Of pixels with the same value the expectation over their orders counts. By chance it is the object's share of the image.
"""

from pipeline.families import Count, metric
from pipeline.maps.ranks import expected_inside


@metric
def top_k(S, positive, counted, *, k: Count = 1000):
    """An image of fewer pixels gives all of them."""
    most = min(k, int(counted.sum()))
    return expected_inside(S[counted], positive[counted], most) / most
