"""Deconvnet (Zeiler and Fergus 2014; Springenberg et al. 2015, figure 1): R_in = ReLU(R_out) at each ReLU, then as for the gradient."""

from pipeline.families import Walk, magnitude, path


@path(rule="deconvnet")
def deconvnet(x):
    return Walk([(x, 1.0)], magnitude)
