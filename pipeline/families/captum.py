"""The captum family: attributions of the captum package, one line each.

B images, H W pixels of the network's input
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from torch import nn

from pipeline.families.registry import METHODS, Parameter, register


@dataclass(frozen=True)
class Attribution:
    """An attribution by captum of the normalised input [B 3 H W], made one value a pixel and rectified.

    Attributes:
        make: a torch module, (x [n 3 H W], d [n C]) -> the explained scalars <d, y> [n], to an object with captum's `attribute`. The
            module has the network's own modules as `network`, for attributions that want one.
        fixed: arguments of `attribute` that no setting can write: tensors, functions.
        draws: whether it draws random numbers; its images are then explained one by one, each from its own seed.
    """

    name: str
    make: Callable[[nn.Module], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    draws: bool = False
    version: int = 1
    family: str = "captum"
    grid: Literal["cells", "pixels"] = "pixels"
    class_free: bool = False
    seeded: bool = True
    parameters: Mapping[str, Parameter] = field(init=False)

    def __post_init__(self):
        own = {name: Parameter(type(value), value) for name, value in self.settings.items()}
        colours = Parameter(Literal["sum", "magnitude"], "sum")
        object.__setattr__(self, "parameters", MappingProxyType({"colours": colours, **own}))

    def render(self, settings: Mapping[str, Any]) -> str:
        return "area"


def captum_method(name: str, make: Callable[[nn.Module], Any], *, draws: bool = False, version: int = 1, **attribute) -> None:
    """Add a captum attribution under a name: `captum_method("deep_lift", DeepLift)`.

    Further arguments are passed on to its `attribute`; numbers, booleans and words among them become settings:
    `captum_method("ig", IntegratedGradients, n_steps=20)` has `ig.n_steps`.
    """
    settings = {key: value for key, value in attribute.items() if type(value) in (int, float, bool, str)}
    fixed = {key: value for key, value in attribute.items() if key not in settings}
    register(METHODS, name, Attribution(name, make, settings, fixed, draws, version))
