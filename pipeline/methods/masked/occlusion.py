"""Occlusion (Zeiler and Fergus 2014): the mean loss of probability over the windows that cover a pixel."""

from pipeline.families import Count, Windows, masked


@masked({"copies": Windows}, grid="pixels", fill="mean")
def occlusion(clean, copies, *, window: Count = 32, stride: Count = 5):
    """S(x) = mean over windows w covering x of p - p(image without w); zero where none covers x."""
    rows, columns = copies.geometry
    drop = (clean.prob[:, None] - copies.prob).view(-1, len(rows), len(columns))
    return rows.T @ drop @ columns / (rows.sum(0)[:, None] * columns.sum(0)).clamp(min=1)
