"""A backbone's arguments as one value, which travels to workers."""

from dataclasses import asdict, dataclass

from pipeline import backbones
from pipeline.classes.texts import TEMPLATES
from pipeline.targets.registry import Phrase


@dataclass(frozen=True)
class Network:
    """A description of a backbone to load: the arguments of `pipeline.backbones.load`."""

    name: str
    weights: str | None = None
    args: tuple[tuple[str, str], ...] = ()
    layer: str | None = None
    image_size: int | None = None
    crop: str = "squash"
    seed: int = 0
    text_classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = TEMPLATES
    phrases: tuple[Phrase, ...] = ()
    probe: str | None = None

    def load(self) -> backbones.Backbone:
        return backbones.load(**{**asdict(self), "args": dict(self.args)})
