"""Insertion (RISE; Opti-CAM section 4): the area under the class's probability as a blurred image gets its pixels, highest first.

`steps` as for deletion.
"""

from pipeline.families import Count, Removed, equal_steps, metric


def steps(size, *, steps: Count = 224, fill: str = "blur11"):
    return Removed(equal_steps(size, steps), fill, reveal=True)


@metric(
    perturbations={"copies": steps},
    columns={"insertion": "higher", "insertion_label": "higher"},
    curves=True,
    family="faithfulness",
    constant=True,
)
def insertion(copies):
    return copies.p.T[::-1]
