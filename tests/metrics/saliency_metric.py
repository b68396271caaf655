"""Facts about the saliency metric."""

import math

import torch.nn.functional as F

HAND = {"saliency_metric": {"saliency_metric": math.log(6 / 16) - math.log(0.25)}}
COSTS = {("saliency_metric",): 1 + 1}


def reference(slow):
    from skimage.measure import label, regionprops

    region = max(regionprops(label((slow.S.mean() < slow.S).numpy(), connectivity=2)), key=lambda region: region.area)
    top, left, bottom, right = region.bbox
    crop = F.interpolate(slow.x[None, :, top:bottom, left:right], slow.S.shape, mode="bilinear")[0]
    return (math.log(max(0.05, (bottom - top) * (right - left) / slow.S.numel())) - math.log(slow.p(crop)[slow.c]),)


REFERENCES = {"saliency_metric": reference}
