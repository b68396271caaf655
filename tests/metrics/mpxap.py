"""Facts about mPxAP."""

HAND = {"mpxap": {"mpxap": 3 / 4 + 1 / 4 * 4 / 16, "mpxap_chance": 4 / 16}}
SILENT = ("a box between pixels", "a mask without an object", "a mask of what is neither")
