"""Facts about deletion."""

import torch

HAND = {"deletion(steps=2)": {"deletion": 0.3, "deletion_label": 0.25}}  # after half of the pixels 1/4 and 1/5, after all of them nothing
COSTS = {("deletion",): 224 + 1, ("deletion(steps=28)",): 28 + 1, ("deletion", "fine=deletion(fill=black)"): 2 * 224 + 1}
TIES = True


def area(curve):
    curve = torch.stack(curve)
    return ((curve[1:] + curve[:-1]) / 2).mean(0)


def reference(slow, steps=8, fill=0):
    """All pixels in so many equal steps."""
    order, n = slow.order(), slow.S.numel() // steps
    curve = area([slow.p(slow.removed(order[: t * n], fill)) for t in range(steps + 1)])
    return curve[slow.predicted], curve[slow.c]


REFERENCES = {
    "deletion(steps=8)": reference,
    "deletion(steps=8,fill=min)": lambda slow: reference(slow, fill=slow.x.min()),
    "deletion(steps=8,fill=black)": lambda slow: reference(slow, fill=slow.grey(0)),
    "deletion(steps=8,fill=0.7)": lambda slow: reference(slow, fill=slow.grey(0.7)),
    "deletion(steps=8,fill=blur11)": lambda slow: reference(slow, fill=slow.blur11()),
}
