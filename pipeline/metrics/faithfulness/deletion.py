"""Deletion (RISE; Opti-CAM section 4): the area under the class's probability as the image loses its pixels, highest first.

`steps` equal steps from the whole image to none: 224 steps of 224 pixels at 224 pixels as published, 28 as in RISE's batch run.
"""

from pipeline.families import Count, Removed, equal_steps, metric


def steps(size, *, steps: Count = 224, fill: str = "mean"):
    return Removed(equal_steps(size, steps), fill)


@metric(
    perturbations={"copies": steps},
    columns={"deletion": "lower", "deletion_label": "lower"},
    curves=True,
    family="faithfulness",
    constant=True,
)
def deletion(copies):
    return copies.p.T[::-1]
