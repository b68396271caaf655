"""Facts about top-k intersection."""

# Five highest: three in the box and two of three that are alike off it. Nine: the seven above zero, and two of nine zeros, of which one
# lies in the box. All sixteen: the box's share.
HAND = {"top_k(k=5)": {"top_k": 3 / 5}, "top_k(k=9)": {"top_k": (3 + 2 / 9) / 9}, "top_k": {"top_k": 1 / 4}}
SILENT = ("a box between pixels", "a mask without an object", "a mask of what is neither")
