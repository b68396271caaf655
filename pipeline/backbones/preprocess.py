"""Preprocessing: pixels become the input that a network was trained on.

B images, H W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from pipeline.refusal import Refusal, choose
from pipeline.sources.decode import CROPS, INTERPOLATIONS

SETTINGS = ("mean", "std", "interpolation", "crop_pct")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bicubic", "crop_pct": 0.875}


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to the network's input: the geometry is done where it is decoded (PIL), the arithmetic here, on the device.

    Attributes:
        size: (H, W) in pixels.
        mean, std: per channel, for pixels in [0, 1].
        interpolation: name of the PIL filter.
        crop: `squash` resizes both sides to `size`; `center` keeps the aspect and cuts the middle `crop_pct` out.
        crop_pct: share of the shorter side that is kept; 1 where nothing is cropped.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop: str = "squash"
    crop_pct: float = 1.0

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] on any device -> float32 [B, 3, H, W], normalised."""
        return self.normalise(self.pixels(images))

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> float32 in [0, 1]: the space in which masks multiply."""
        if images.dtype != torch.uint8:
            raise ValueError(f"images are uint8, not {images.dtype}; pixels that are floats already go to `normalise`")
        return images.to(torch.float32) / 255

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] [B, 3, H, W] -> the network's input."""
        mean, std = (pixels.new_tensor(value).view(1, -1, 1, 1) for value in (self.mean, self.std))
        return (pixels - mean) / std

    def unnormalise(self, x: Tensor) -> Tensor:
        """The inverse of `normalise`: pixels [B, 3, H, W] in [0, 1] from a value of the normalised space."""
        mean, std = (x.new_tensor(value).view(1, -1, 1, 1) for value in (self.mean, self.std))
        return x * std + mean


def stated_config(network: object) -> dict:
    """A network's own statement about its input, in timm's keys; empty where it makes none."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(network, name, None)
        if config and isinstance(config, Mapping):
            return dict(config)
        if hasattr(config, "__dict__") and not callable(config):
            return vars(config)
    return {}


def size_of(value: object) -> tuple[int, int] | None:
    """(H, W) from a side or a pair of sides in pixels, or from None."""
    if value is None:
        return None
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise Refusal(f"image size {value!r} is not a number of pixels; write 224, or img_size=224,320 for height and width")
    return sides


def preprocessing(config: Mapping, settings: Mapping, size: tuple[int, int] | None, crop: str) -> Preprocessing:
    """The network's own `config` (timm's keys), overruled by `settings` (keys of SETTINGS) and `size`, its own where None.

    Raises:
        Refusal: on a mean, std, filter or crop that cannot be.
    """
    values = IMAGENET | {key: value for key, value in config.items() if key in IMAGENET and value is not None} | dict(settings)
    mean, std = _per_channel("mean", values["mean"]), _per_channel("std", values["std"])
    if min(std) <= 0:
        raise Refusal(f"std={values['std']!r} divides every pixel by zero or less; give three numbers above 0")
    crop_pct = values["crop_pct"]
    if not isinstance(crop_pct, (int, float)) or not 0 < crop_pct <= 1:
        raise Refusal(f"crop_pct={crop_pct!r} is not a share of the image; give a number above 0 and up to 1")
    choose(crop, CROPS, "crop")
    interpolation = choose(str(values["interpolation"]), INTERPOLATIONS, "interpolation")
    # a squashed image is not cropped, so its share must not tell two equal preparations apart
    size = size or _stated_size(config.get("input_size")) or (224, 224)
    return Preprocessing(size, mean, std, interpolation, crop, float(crop_pct) if crop == "center" else 1.0)


def _stated_size(value: object) -> tuple[int, int] | None:
    """(H, W) of timm's `input_size`, which is (3, H, W); None of anything else."""
    sides = tuple(value)[1:] if isinstance(value, (tuple, list)) else ()
    return sides if len(sides) == 2 and all(type(side) is int and side > 0 for side in sides) else None


def _per_channel(name: str, value: object) -> tuple[float, float, float]:
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,) * 3
    if len(numbers) != 3 or not all(isinstance(number, (int, float)) and isfinite(number) for number in numbers):
        raise Refusal(f"{name}={value!r} is not one number per colour; write {name}=0.5,0.5,0.5")
    red, green, blue = map(float, numbers)
    return red, green, blue
