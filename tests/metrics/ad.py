"""Facts about average drop."""

HAND = {"ad": {"ad": 3 / 5, "ad_pred": 0}}  # 0.5 and 0.8 of the label and the predicted class, 0.2 and 0.9 under the map
COSTS = {("ad",): 1 + 1, ("ad_ai_ag",): 1 + 1}


def reference(slow, dimmed=None):
    p, o = slow.p(slow.x), slow.p(slow.dimmed(slow.S) if dimmed is None else dimmed)
    return tuple(float((p[k] - o[k]).clamp(min=0) / p[k]) for k in (slow.c, slow.predicted))


REFERENCES = {"ad": reference, "ad(fill=mean)": lambda slow: reference(slow, slow.x * slow.S)}
