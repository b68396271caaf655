"""Light drop (GLAS figure 5): the class's loss when the image is dimmed by one minus its map."""

from pipeline.families import Dimmed, Later, metric


def dark(*, fill: Later[str] = "black"):
    return Dimmed(True, fill)


@metric(
    perturbations={"dark": dark},
    columns={"light_drop": "higher", "light_drop_pred": "higher"},
    family="faithfulness",
    constant=True,
)
def light_drop(p, dark):
    return p - dark.p[0]
