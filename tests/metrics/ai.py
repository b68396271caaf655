"""Facts about average increase."""

from tests.metrics import ag

HAND = {"ai": {"ai": 0, "ai_pred": 1}}
COSTS = {("ai",): 1 + 1}
REFERENCES = {
    written: lambda slow, gains=gains: tuple(float(gain > 0) for gain in gains(slow))
    for written, gains in {"ai": ag.REFERENCES["ag"], "ai(fill=mean)": ag.REFERENCES["ag(fill=mean)"]}.items()
}
