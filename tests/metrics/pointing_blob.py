"""Facts about the pointing game of GLAS."""

HAND = {"pointing_blob": {"pointing_blob": 1, "pointing_blob_small": 0}}  # the box takes exactly a quarter
