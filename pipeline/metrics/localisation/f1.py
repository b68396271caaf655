"""Pixel-wise F1 (Opti-CAM A3-A4): of the share of the map on the object, and of the map's mean on the object."""

from pipeline.families import metric


@metric
def f1(S, inside):
    precision, recall = S[inside].sum() / S.sum(), S[inside].mean()
    return 2 * precision * recall / (precision + recall) if precision else 0.0
