"""Facts about coherency."""

HAND = {"coherency": {"coherency": 1}}  # explained again the map is the same
COSTS = {("coherency",): 1 + 1}
ANEW = True


def reference(slow, dimmed=None):
    from scipy.stats import pearsonr

    again = slow.again(slow.dimmed(slow.S) if dimmed is None else dimmed)
    return ((1 + pearsonr(slow.S.flatten().numpy(), again.flatten().numpy()).statistic) / 2,)


REFERENCES = {"coherency": reference, "coherency(fill=mean)": lambda slow: reference(slow, slow.x * slow.S)}
