"""Average increase (Opti-CAM eq. 14): whether the class gains when the image is dimmed by its map; a tie is no gain."""

from pipeline.families import dimmed, metric


@metric(
    perturbations={"dimmed": dimmed},
    columns={"ai": "higher", "ai_pred": "higher"},
    family="faithfulness",
    constant=True,
    binary=True,
)
def ai(p, dimmed):
    return (p < dimmed.p[0]).astype(float)
