"""Gradient (Simonyan et al. 2014, section 3.1): the largest magnitude over the colours of d<d, y>/dx."""

from pipeline.families import Walk, magnitude, path


@path
def gradient(x):
    """x is the normalised input: with respect to pixels each colour would be divided by its std first."""
    return Walk([(x, 1.0)], magnitude)
