"""Facts about average increase."""

from tests.metrics import ag

HAND = {"ai": {"ai": 0, "ai_pred": 1}}
COSTS = {("ai",): 1 + 1}
REFERENCES = {"ai": lambda slow: tuple(float(gain > 0) for gain in ag.reference(slow))}
