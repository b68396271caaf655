"""CALM (Kim et al. 2021, section 4): the probability that the cue lies in a cell and speaks for the target."""

from typing import Literal

from pipeline.families import latent, rectify


@latent
def calm(
    g,
    h,
    d,
    *,
    map: Literal["attribution", "conditional", "location", "saliency"] = "attribution",
    norm: Literal["minmax", "relu", "clipping"] = "minmax",
):
    """For a direction d in class space: sum_c d_c p(c,z|x), which adds up to <d, p> (eq. 7); `finer` makes it a counterfactual one.

    `conditional` is sum_c d_c p(c|x,z), as the paper prints it; `location` is sum_c d_c p(z|x,c), as its code has it under that name;
    `saliency` is p(z|x), whatever the target. norm=clipping cuts to [0, 1], CALM's own normalisation: a map of probabilities is
    then left as it is, and metrics with thresholds=log read it so, while those with even ones bring every map to [0, 1] by min-max.
    """
    if map == "saliency":
        return h[:, 0]
    if map == "location":
        joint = g * h
        g, h = joint / joint.sum((2, 3), keepdim=True).clamp(min=1e-30), 1
    elif map == "conditional":
        h = 1
    evidence = (d[:, :, None, None] * g * h).sum(1)
    return evidence.clamp(0, 1) if norm == "clipping" else rectify(evidence, norm)
