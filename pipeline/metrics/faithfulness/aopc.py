"""Area over the perturbation curve (Opti-CAM table 4, region perturbation): the class's mean loss as the top patches go, one by one.

Patches of 14 x 14 pixels replaced by each image's smallest normalised number, as Quantus has it.
"""

from pipeline.families import Count, Removed, metric


def patches(*, patch: Count = 14, patches: Count = 10, fill: str = "min"):
    return Removed(tuple(range(1, patches + 1)), fill, patch)


@metric(perturbations={"copies": patches}, columns={"aopc": "higher", "aopc_pred": "higher"}, family="faithfulness", constant=True)
def aopc(p, copies):
    return (p - copies.p).mean(0)
