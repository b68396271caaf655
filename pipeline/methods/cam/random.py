"""Uniform noise on the grid of the cut layer: the floor every method must clear."""

from pipeline.families import cam


@cam
def random(noise):
    return noise
