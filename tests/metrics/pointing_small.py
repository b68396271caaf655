"""Facts about the pointing game of GLAS on small objects."""

HAND = {"pointing_small(small=0.5)": {"pointing_small": 1}}
ANY = "pointing_small(small=1)"  # on any object, not only on small ones
