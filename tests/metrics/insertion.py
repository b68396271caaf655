"""Facts about insertion."""

from tests.metrics.deletion import area

HAND = {"insertion(steps=2)": {"insertion": 0.3, "insertion_label": 0.25}}
COSTS = {("insertion",): 224 + 1}
TIES = True


def reference(slow):
    order, n, start = slow.order(), slow.S.numel() // 8, slow.blur11()
    curve = area([slow.p(slow.removed(order[t * n :], start)) for t in range(9)])
    return curve[slow.predicted], curve[slow.c]


REFERENCES = {"insertion(steps=8)": reference}
