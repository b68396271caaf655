"""Bounding-box study (Opti-CAM table 5): ad, ag and ai of the box B, of its outside, and of the map within and without B.

The map is not brought to [0, 1] again, so that the map of Fake-CAM within B is B.
"""

import numpy as np

from pipeline.families import Boxed, Later, metric

PARTS = ("b", "rest", "s_b", "s_rest")
BETTER = {"ad": "lower", "ag": "higher", "ai": "higher"}
COLUMNS = {f"bbox_study_{name}_{part}": better for name, better in BETTER.items() for part in PARTS}
SHARES = [column for column in COLUMNS if "_ai_" in column]


def boxed(*, fill: Later[str] = "black"):
    return Boxed(fill=fill)


def dimmed(*, fill: Later[str] = "black"):
    return Boxed(True, fill)


@metric(perturbations={"boxed": boxed, "dimmed": dimmed}, columns=COLUMNS, family="analysis", constant=True, binary=SHARES)
def bbox_study(p, q, inside, boxed, dimmed):
    p, q, o = p[0], q[0], np.concatenate([boxed.p[:, 0], dimmed.p[:, 0]])
    drop, gain = np.maximum(p - o, 0) / max(p, 1e-12), np.maximum(o - p, 0) / max(q, 1e-12)
    return np.concatenate([drop, gain, p < o])
