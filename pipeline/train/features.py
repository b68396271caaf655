"""The maps of a frozen trunk for every image, computed once and kept in a file of this machine.

N images, K channels, h w cells
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.refusal import Refusal
from pipeline.tables.identity import digest
from pipeline.train import data
from pipeline.train.check import CheckedTraining
from pipeline.train.team import Team

IMAGES_AT_ONCE = 64  # images of a pass without a gradient


def network_input(checked: CheckedTraining, device: torch.device, pixels: np.ndarray) -> Tensor:
    """Pixels uint8 [B 3 H W] as the trunk takes them: normalised, float32, channels last."""
    prepare = checked.prepare
    x = prepare.normalise(prepare.pixels(torch.from_numpy(np.ascontiguousarray(pixels)).to(device)))
    return x.contiguous(memory_format=torch.channels_last)


def trunk_features(checked: CheckedTraining, trunk: nn.Module, images: data.Images, team: Team) -> np.ndarray:
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
        features = data.open_array(folder / "features.f16", shape, np.float16, new=True)
        rows = [row for of_split in images.rows.values() for row in of_split]
        for start in range(0, len(rows), IMAGES_AT_ONCE):
            batch = rows[start : start + IMAGES_AT_ONCE]
            maps = trunk(network_input(checked, device, images.inputs[batch])).cpu().numpy()
            if not (np.abs(maps) < np.finfo(np.float16).max).all():
                raise Refusal("the frozen trunk's features leave the range of half precision; train with --freeze none")
            features[batch] = maps

    without_head: dict[str, Any] = {"head": "", "positive": "", "normaliser": "", "num_classes": 0, "classes": ()}
    trunk_recipe = replace(checked.recipe, **without_head)
    name = f"features-{digest([trunk_recipe.to_json(), checked.start, checked.image_spec.identity])}"
    folder = data.fill_folder(Path(checked.job.cache) / name, fill, team)
    return data.open_array(folder / "features.f16", shape, np.float16)
