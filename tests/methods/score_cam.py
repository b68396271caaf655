"""Facts about Score-CAM."""

import torch
import torch.nn.functional as F

from pipeline.maps.render import unit

DEFAULTS = {"score_norm": "softmax", "fill": "black"}  # Opti-CAM eq. 3 masks pixels with black and takes a softmax over channels
COST = "1F + K F"


def reference(slow, softmax=True):
    A, scores = slow.A(), []
    for channel in A:
        mask = F.interpolate(channel[None, None], (slow.side, slow.side), mode="bilinear")[0, 0]
        scores.append(slow.y(slow.x * torch.from_numpy(unit(mask.numpy()))) - slow.y(slow.x * 0))
    scores = torch.tensor(scores, dtype=torch.float64)
    weights = scores.softmax(0) if softmax else scores
    return (weights[:, None, None] * A).sum(0).relu()


REFERENCES = {"score_cam": reference, "score_cam(score_norm=none)": lambda slow: reference(slow, softmax=False)}
PASSES = {"score_cam": (12, 0), "score_cam(score_norm=none)": (12 + 1, 0)}
