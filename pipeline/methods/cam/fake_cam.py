"""Fake-CAM (Poppi et al. 2021; Opti-CAM section 4): one everywhere but in the top left pixel. A control that explains nothing."""

import torch

from pipeline.families import cam


@cam(grid="pixels")
def fake_cam(A, size):
    maps = torch.ones(len(A), *size, dtype=A.dtype, device=A.device)
    maps[:, 0, 0] = 0
    return maps
