"""Whether the class is still right without the top k % of the map's pixels, and without as many at random (CALM section 5.3).

The ratio of both accuracies is `remove_and_classify`.
"""

from pipeline.families import Removed, metric

K = (10, 30, 50, 70, 90)
COLUMNS = {**{f"remove_{k}": "lower" for k in K}, **{f"remove_random_{k}": None for k in K}}


def top(size, *, fill: str = "blur31"):
    return Removed(tuple(k * size[0] * size[1] // 100 for k in K), fill)


def some(size, *, fill: str = "blur31"):
    return Removed(tuple(k * size[0] * size[1] // 100 for k in K), fill, order="random")


@metric(perturbations={"masked": top, "at_random": some}, columns=COLUMNS, family="faithfulness", constant=True, binary=True)
def remove(label, masked, at_random):
    return [*(masked.top == label), *(at_random.top == label)]
