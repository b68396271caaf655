"""Energy in the box (Finer-CAM's Loc., the energy-based pointing game; E18): the share of the map's sum that lies on the object."""

from pipeline.families import metric


@metric
def energy(S, inside):
    return S[inside].sum() / S.sum()
