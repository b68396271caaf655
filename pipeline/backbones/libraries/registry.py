"""A library of networks as a value, and the options that its networks are built with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.own_cut import OwnCut, TrunkAndHead
from pipeline.backbones.weights import weights_digest
from pipeline.classes.texts import TEMPLATES
from pipeline.targets.registry import Phrase


@dataclass(frozen=True)
class BuildOptions:
    """The options that a network is built with.

    Attributes:
        args: arguments of the network, text already read as numbers, words and tuples.
        weights: file, URL or hf-hub:<org>/<name>; the library's own weights where None.
        size: (H, W) of the images in pixels; the network's own where None.
        seed: decides weights that are drawn.
        classes, templates, phrases: of a library that reads texts, see `load`.
    """

    args: Mapping[str, object] = field(default_factory=dict)
    weights: str | None = None
    size: tuple[int, int] | None = None
    seed: int = 0
    classes: Sequence[str] = ()
    templates: Sequence[str] = TEMPLATES
    phrases: Sequence[Phrase] = ()


@dataclass(frozen=True)
class Library:
    """A library of networks, or another place that backbones come from. Each module of this folder exports one as `LIBRARY`.

    Attributes:
        prefix: with which its backbones' names begin; empty for the one that takes all other names.
        form: of a backbone's name, for messages.
        build: the name behind the prefix and options -> a network with its weights; raises Refusal.
        identity_fields: full name, network, options and cut -> the fields that decide the network's values, beside layer and preprocessing.
            The keys are hashed: a changed key makes every user compute everything anew.
        weights_identity: a network without a classifier -> hash of its weights.
        pooling_key: the argument that says how a network pools its tokens.
        headless: arguments that leave a network's own classifier out.
        takes_img_size: whether `img_size=H,W` among the arguments is the size of the images.
        reads_texts: whether its networks have a text tower, for classes and phrases that are texts.
        architecture: the name behind the prefix -> the architecture, where that is known before the network is built.
        class_names: a network -> the names of its classes, where it brings them.
        add_classifier: puts a linear layer behind a network without a classifier; None for the way that suits any torch module.
    """

    prefix: str
    form: str
    build: Callable[[str, BuildOptions], nn.Module | TrunkAndHead]
    identity_fields: Callable[[str, nn.Module | TrunkAndHead, BuildOptions, Cut | OwnCut], dict[str, object]]
    weights_identity: Callable[[nn.Module], str] = lambda network: weights_digest(network.state_dict())
    pooling_key: str = "global_pool"
    headless: Mapping[str, object] = field(default_factory=lambda: {"num_classes": 0})
    takes_img_size: bool = False
    reads_texts: bool = False
    architecture: Callable[[str], str | None] = lambda model: None
    class_names: Callable[[nn.Module | TrunkAndHead], tuple[str, ...]] = lambda network: ()
    add_classifier: Callable[[nn.Module, nn.Linear], nn.Module] | None = None
