"""Real images, and the networks that were trained on their like."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGES = 50
NETWORKS = {
    "mobilenetv2": ("timm/mobilenetv2_100", "mobilenetv2_100.imagenet", {"pad_type": "same"}),
    "vit_tiny": ("timm/vit_tiny_patch16_224", "vit_tiny_patch16_224.imagenet", {}),
}


def real_pictures(realdata: Path, count: int = IMAGES, side: int = 224) -> tuple[Tensor, Tensor]:
    """The first validation images, uint8 [count 3 side side], and their labels [count]."""
    with tarfile.open(realdata / "imagenet_val227" / "00000.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    names = sorted(name for name in files if name.endswith(".jpg"))[:count]
    images = [Image.open(io.BytesIO(files[name])).convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for name in names]
    labels = [int(files[name.replace(".jpg", ".cls")]) for name in names]
    return torch.from_numpy(np.stack([np.asarray(image).transpose(2, 0, 1) for image in images])), torch.tensor(labels)


def real_picture(realdata: Path, side: int) -> Tensor:
    """One validation image, uint8 [1 3 side side]."""
    return real_pictures(realdata, 1, side)[0]
