"""What a frozen trunk makes of every image, computed once and kept in a file of this machine.

N images, K channels, h w cells
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.refusal import Refusal
from pipeline.tables.identity import digest
from pipeline.train import data
from pipeline.train.check import CheckedTraining
from pipeline.train.team import Team

SEEN_AT_ONCE = 64  # images of a pass without a gradient


def entering(checked: CheckedTraining, device: torch.device, pixels: np.ndarray) -> Tensor:
    """Pixels uint8 [B 3 H W] as the trunk takes them."""
    how = checked.prepare
    seen = how.normalise(how.pixels(torch.from_numpy(np.ascontiguousarray(pixels)).to(device)))
    return seen.contiguous(memory_format=torch.channels_last)


def features(checked: CheckedTraining, trunk: nn.Module, images: data.Images, team: Team) -> np.ndarray:
    """Features float16 [N K h w]; rows of images that could not be used are zero.

    Raises:
        Refusal: where a feature leaves the range of half precision.
    """
    device = next(trunk.parameters()).device
    trunk.eval()
    with torch.no_grad():
        shape = (len(images.ids), *trunk(torch.zeros(1, 3, *checked.recipe.size, device=device)).shape[1:])

    @torch.no_grad()
    def fill(folder: Path) -> None:
        found = data.array(folder / "features.f16", shape, np.float16, new=True)
        rows = [row for part in images.rows.values() for row in part]
        for start in range(0, len(rows), SEEN_AT_ONCE):
            part = rows[start : start + SEEN_AT_ONCE]
            seen = trunk(entering(checked, device, images.shown[part])).cpu().numpy()
            if not (np.abs(seen) < np.finfo(np.float16).max).all():
                raise Refusal("the frozen trunk's features leave the range of half precision; train with --freeze none")
            found[part] = seen

    made_by = replace(checked.recipe, head="", positive="", normaliser="", num_classes=0, classes=())
    name = f"features-{digest([made_by.to_json(), checked.start, checked.asked.identity])}"
    folder = data.filled(Path(checked.job.cache) / name, fill, team)
    return data.array(folder / "features.f16", shape, np.float16)
