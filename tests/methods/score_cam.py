"""Facts about Score-CAM."""

import torch
import torch.nn.functional as F

from pipeline.maps.render import unit

# Opti-CAM eq. 3 masks pixels with black and takes a softmax over channels
DEFAULTS = {"score_norm": "softmax", "align_corners": False, "fill": "black"}
COST = "1F + K F"


def reference(slow, weights="softmax", align_corners=False, colour=0.0):
    A, scores = slow.A(), []
    for channel in A:
        mask = F.interpolate(channel[None, None], (slow.side, slow.side), mode="bilinear", align_corners=align_corners)[0, 0]
        copy = colour + (slow.x - colour) * torch.from_numpy(unit(mask.numpy()))
        scores.append(slow.p(copy) if weights == "prob" else slow.y(copy) - slow.y(slow.x * 0))
    scores = torch.tensor(scores, dtype=torch.float64)
    scores = scores.softmax(0) if weights == "softmax" else scores
    return (scores[:, None, None] * A).sum(0).relu()


REFERENCES = {
    "score_cam": reference,
    "score_cam(score_norm=none)": lambda slow: reference(slow, "none"),
    "score_cam(align_corners=true)": lambda slow: reference(slow, align_corners=True),
    "score_cam(score_norm=prob,fill=mean)": lambda slow: reference(slow, "prob", colour=slow.mean),
}
PASSES = {"score_cam": (12, 0), "score_cam(score_norm=none)": (12 + 1, 0)}
