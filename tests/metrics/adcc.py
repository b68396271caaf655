"""Facts about ADCC."""

from tests.metrics import coherency

HAND = {"adcc": {"adcc": 3 / (1 + 16 / 13 + 1)}}
COSTS = {("adcc", "coherency", "ad"): 2 + 1}
ANEW = True


def reference(slow, dimmed=None):
    from scipy.stats import hmean

    dimmed = slow.dimmed(slow.S) if dimmed is None else dimmed
    p, o = slow.p(slow.x)[slow.predicted], slow.p(dimmed)[slow.predicted]
    return (hmean([coherency.reference(slow, dimmed)[0], 1 - slow.S.mean(), 1 - float((p - o).clamp(min=0) / p)]),)


# the released code multiplies the normalised image
REFERENCES = {"adcc": reference, "adcc(fill=mean)": lambda slow: reference(slow, slow.x * slow.S)}
