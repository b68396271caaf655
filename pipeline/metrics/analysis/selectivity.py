"""Selectivity (Opti-CAM appendix F.1): ad, ag and ai of the map to a power, which keeps the order of its pixels.

A column is named by 100 times its power, as `selectivity_ad_50` is of the square root.
"""

import numpy as np

from pipeline.families import Later, Powered, metric

POWERS = (0.01, 0.05, 0.1, 0.5, 1, 1.5, 2, 3, 5, 10)
BETTER = {"ad": "lower", "ag": "higher", "ai": "higher"}
COLUMNS = {f"selectivity_{name}_{100 * power:.0f}": better for name, better in BETTER.items() for power in POWERS}
SHARES = [column for column in COLUMNS if "_ai_" in column]


def powers(*, fill: Later[str] = "black"):
    return Powered(POWERS, fill)


@metric(perturbations={"powers": powers}, columns=COLUMNS, family="analysis", constant=True, binary=SHARES)
def selectivity(p, q, powers):
    p, q, o = p[0], q[0], powers.p[:, 0]
    drop, gain = np.maximum(p - o, 0) / max(p, 1e-12), np.maximum(o - p, 0) / max(q, 1e-12)
    return np.concatenate([drop, gain, p < o])
