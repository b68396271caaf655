"""Facts about average gain."""

HAND = {"ag": {"ag": 0, "ag_pred": 1 / 2}}
COSTS = {("ag",): 1 + 1}


def reference(slow, dimmed=None):
    p, o = slow.p(slow.x), slow.p(slow.dimmed(slow.S) if dimmed is None else dimmed)
    return tuple(float((o[k] - p[k]).clamp(min=0) / (1 - p[k])) for k in (slow.c, slow.predicted))


REFERENCES = {"ag": reference, "ag(fill=mean)": lambda slow: reference(slow, slow.x * slow.S)}
