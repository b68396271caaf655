"""Facts about CALM."""

DEFAULTS = {"map": "attribution", "norm": "minmax"}  # CALM eq. 7; a counterfactual keeps its sign
COST = "1F"
MORE = ("1f", "the head is read once more, cell by cell")
