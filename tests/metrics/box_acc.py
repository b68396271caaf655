"""Facts about BoxAcc."""

# best overlaps 1/3, 1, 1/2, 1/4 above 0, 1/4, 1/2, 3/4
HAND = {"box_acc(step=0.25)": {"hits": [1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 0, 0], "box_acc": 1}}
