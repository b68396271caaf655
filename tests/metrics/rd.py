"""Facts about relative drop."""

import math

HAND = {"rd": {"rd_05": 1 / 32, "rd_10": 1 / 16}}  # one and two pixels less: the class loses 1/32 and 2/32 and its rival nothing
COSTS = {("rd",): 2 + 1, ("rd", "close=rd(reference=weight_cosine)"): 2 + 1}
TIES = True


def reference(slow, rival="d", fill=0):
    p, other, found = slow.p(slow.x), getattr(slow, rival), []
    for r in (0.05, 0.1):
        masked = slow.p(slow.removed(slow.order()[: math.ceil(r * slow.S.numel())], fill))
        found.append((p[slow.c] - masked[slow.c]) - (p[other] - masked[other]))
    return tuple(found)


REFERENCES = {
    "rd": reference,
    "rd(reference=weight_cosine)": lambda slow: reference(slow, "near"),
    "rd(fill=blur31)": lambda slow: reference(slow, fill=slow.blur31()),
}
