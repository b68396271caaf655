"""Average increase (Opti-CAM eq. 14; E2): whether the class gains when the image is dimmed by its map; a tie is no gain."""

from pipeline.families import metric


@metric(columns={"ai": "higher", "ai_pred": "higher"}, family="faithfulness", constant=True, binary=True)
def ai(p, o):
    return (p < o).astype(float)
