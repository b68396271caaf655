"""Facts about complexity."""

HAND = {"complexity": {"complexity": 3 / 16}}
REFERENCES = {"complexity": lambda slow: (slow.S.mean(),)}
COSTS = {("complexity", "tie_share"): 1}
