"""Facts about light drop."""

HAND = {"light_drop": {"light_drop": 0.4, "light_drop_pred": 0.1}}
COSTS = {("ad_ai_ag", "light_drop"): 2 + 1}


def reference(slow, dimmed=None):
    drop = slow.p(slow.x) - slow.p(slow.dimmed(1 - slow.S) if dimmed is None else dimmed)
    return drop[slow.c], drop[slow.predicted]


REFERENCES = {"light_drop": reference, "light_drop(fill=mean)": lambda slow: reference(slow, slow.x * (1 - slow.S))}
