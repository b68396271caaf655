"""Facts about PxAP."""

# from the top: 1, 5/8, 1/2 on the object, then 3 + 1 off it, then the zeros, one of nine on it
HAND = {"pxap": {"pxap": 3 / 4 + 1 / 4 * 4 / 16}}
SILENT = ("a box between pixels", "a mask without an object", "a mask of what is neither")
