"""The masked family: the explained scalar of masked copies of an image.

B images, N masks, K channels, h w cells, H W pixels
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch

from pipeline.families.registry import METHODS, Parameter, checked_inputs, inputs_of, parameters, register
from pipeline.refusal import Count, Positive, Refusal

# Recipes of masks: values, which the engine paints chunk by chunk.


@dataclass(frozen=True)
class Bernoulli:
    """Random masks that every image shares: small grids, each cell kept with probability `p`, enlarged and cropped at random (RISE).

    Beyond the centres of its outer cells a grid repeats them, or mirrors itself where `border` is "mirror".
    """

    masks: int
    cells: int
    p: float
    border: str = "repeat"


@dataclass(frozen=True)
class Spots:
    """Gaussians at the centres of a k x k grid, `sigma` in units of side / 15; `dark` takes them away instead of keeping them (GLAS)."""

    k: int
    sigma: float
    dark: bool = False


@dataclass(frozen=True)
class Windows:
    """Squares taken away: every `stride` pixels from the top left, and at the last edges."""

    window: int
    stride: int


@dataclass(frozen=True)
class Channels:
    """One mask per channel of A: the channel enlarged and min-maxed (Score-CAM).

    The centres of its outer cells lie half a cell from the image's border, or on it where `align_corners`.
    """

    align_corners: bool = False


@dataclass(frozen=True)
class Segments:
    """Superpixels of each image (quickshift), each kept or not by a fair coin; the first copy keeps all (LIME)."""

    samples: int
    kernel: int
    max_dist: float
    ratio: float


@dataclass(frozen=True)
class Even:
    """One mask that keeps a `share` of every pixel."""

    share: float


@dataclass(frozen=True)
class Copies:
    """The scores of N masked copies of each image.

    Attributes:
        logit: <d, y> [B N]; [B] where the images are clean.
        prob: <d, p>, likewise.
        spread: weights [B N] -> sum_i w_i m_i [B H W], where all images share the masks m.
        geometry: of windows and spots the profiles (rows [n H], columns [m W]) whose products are the masks; Superpixels of segments.
    """

    logit: torch.Tensor
    prob: torch.Tensor
    spread: Callable[[torch.Tensor], torch.Tensor] | None = None
    geometry: Any = None


@dataclass(frozen=True)
class Superpixels:
    """bits [B N S]: which segments a copy keeps; labels [B H W]: each pixel's segment; number [B]: segments of each image."""

    bits: torch.Tensor
    labels: torch.Tensor
    number: torch.Tensor


@dataclass(frozen=True)
class Masked:
    """Algebra on the scores of masked copies; masks multiply pixels in [0, 1], and hidden pixels show `fill`.

    `recipes` names banks of masks, each a function from settings to a recipe, or to None where these settings do without it. Settings
    are the keyword-only parameters of `map`, of the recipes and of `rendering`. `map` may take
        a bank by its name   Copies [B N]
        clean    Copies [B] of the images as they are
        A        [B K h w]  activations of the cut layer
        drops    [B K]      the loss of <d, y> when a channel of A is zero in front of the head
        pixels   [B 3 H W]  the images
        again    (name, pixels, wanted [B N]) -> Copies of changed images, zero where not wanted
        draw     [B h w] -> [B H W], as stored maps of these settings are drawn
    and returns [B h w], or [B H W] when `grid` is "pixels", after the rectifier.

    `rendering` is a function from settings to `render`; a preset is a word for values of several settings: of all that any preset sets,
    by default where it does not name them.
    """

    name: str
    map: Callable[..., torch.Tensor]
    recipes: Mapping[str, Callable] = field(default_factory=dict)
    grid: Literal["cells", "pixels"] = "cells"
    fill: str | None = "black"
    rendering: Callable[..., str] | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    version: int = 1
    family: str = "masked"
    class_free: bool = False
    inputs: frozenset[str] = field(init=False)
    parameters: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        vocabulary = {"clean", "A", "drops", "pixels", "again", "draw", *self.recipes}
        object.__setattr__(self, "inputs", checked_inputs(self.name, self.map, vocabulary, self.family))
        functions = (*self.recipes.values(), *([self.rendering] if self.rendering else []), self.map)
        settings = {name: setting for function in functions for name, setting in parameters(function).items()}
        if self.fill:
            settings["fill"] = Parameter(str, self.fill)
        object.__setattr__(self, "parameters", MappingProxyType(settings))
        names = {key for values in self.presets.values() for key in values}
        if names - settings.keys():
            raise Refusal(f"method {self.name!r} has presets of {sorted(names - settings.keys())}; its settings are {sorted(settings)}")
        # so that the last word decides on all settings that any of the words is about
        defaults = {key: settings[key].default for key in names}
        object.__setattr__(self, "presets", MappingProxyType({word: {**defaults, **values} for word, values in self.presets.items()}))

    @property
    def seeded(self) -> bool:
        """Whether the run's seed decides the map."""
        defaults = {name: parameter.default for name, parameter in self.parameters.items()}
        return any(isinstance(recipe, (Bernoulli, Segments)) for recipe in self.resolve(defaults).values())

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, "Recipe | None"]:
        """The recipe of each bank by its name."""
        return {name: _call(recipe, settings) for name, recipe in self.recipes.items()}

    def render(self, settings: Mapping[str, Any]) -> str:
        """The way from the stored map to an image."""
        return "area" if self.grid == "pixels" else self.cell_render(settings)

    def cell_render(self, settings: Mapping[str, Any]) -> str:
        """The way from a map on the method's own grid to an image."""
        return _call(self.rendering, settings) if self.rendering else "bilinear"


def _call(function: Callable, settings: Mapping[str, Any]) -> Any:
    """Call a function with the settings that it takes."""
    return function(**{name: settings[name] for name in (*inputs_of(function), *parameters(function))})


def light(*, k: Count = 15, sigma_light: Positive = 3.0) -> Spots:
    """The spots of light of GLAS."""
    return Spots(k, sigma_light)


def shadow(*, k: Count = 15, sigma_shadow: Positive = 3.0) -> Spots:
    """The spots of shadow of GLAS."""
    return Spots(k, sigma_shadow, dark=True)


def gaussians(*, sigma_map: Positive = 3.0, kernel_norm: bool = False) -> str:
    """The drawing of GLAS: a Gaussian in every cell, divided by their number or by their sum."""
    return f"gaussian:{sigma_map:g}{':norm' if kernel_norm else ''}"


Recipe = Bernoulli | Spots | Windows | Channels | Segments | Even


def masked(recipes: Mapping[str, Callable] = MappingProxyType({}), **how):
    """Add a function to the masked family under its own name; `how` is the rest of `Masked`."""

    def add(function: Callable) -> Callable:
        register(METHODS, function.__name__, Masked(function.__name__, function, recipes, **how))
        return function

    return add
