"""Facts about MaxBoxAccV2."""

# the overlaps of box_acc with the far pixels counted in: 9/16, 1, 6/9, 4/9 above 0, 63, 127, 191
HAND = {"max_box_acc_v2(step=0.25)": {"hits": [1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0], "max_box_acc_v2": 1}}
