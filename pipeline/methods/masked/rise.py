"""RISE (Petsiuk et al. 2018, eq. 6): the mean of random masks, each weighted by the probability it leaves."""

from typing import Literal

from pipeline.families import Bernoulli, Count, Later, Share, masked


@masked({"copies": Bernoulli}, grid="pixels")
def rise(copies, *, masks: Count = 8000, cells: Count = 7, p: Share = 0.5, border: Later[Literal["repeat", "mirror"]] = "repeat"):
    """S = sum_i p_i m_i / (N p). The bank follows from the run's seed and these settings: one for all images, classes and targets.

    The released code multiplies the normalised tensor, so that masked pixels show the mean colour: `fill=mean`; and its grids are mirrored
    beyond the centres of their outer cells: `border=mirror`.
    """
    return copies.spread(copies.prob) / (masks * p)
