"""Pointing game (Opti-CAM appendix B, SP): 1 where any of the map's maximal pixels lies on the object."""

from pipeline.families import metric


@metric(binary=True)
def pointing(S, inside):
    return float(S[inside].max() == S.max())
