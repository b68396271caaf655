"""Facts about ADCC."""

from tests.metrics import coherency

HAND = {"adcc": {"adcc": 3 / (1 + 16 / 13 + 1)}}
COSTS = {("adcc", "coherency", "ad"): 2 + 1}
ANEW = True


def reference(slow):
    from scipy.stats import hmean

    p, o = slow.p(slow.x)[slow.predicted], slow.p(slow.dimmed(slow.S))[slow.predicted]
    return (hmean([coherency.reference(slow)[0], 1 - slow.S.mean(), 1 - float((p - o).clamp(min=0) / p)]),)


REFERENCES = {"adcc": reference}
