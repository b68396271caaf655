"""Networks that jobs.train wrote, each one safetensors file: its tensors, and in the file's metadata the recipe to build it again."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import storage
from pipeline.backbones.cutting import strides
from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.own_cut import OwnCut
from pipeline.backbones.heads import Calm, Headed, Normaliser, Plain, Positive
from pipeline.backbones.libraries import timm_models
from pipeline.backbones.libraries.registry import BuildOptions, Library
from pipeline.backbones.preprocess import SETTINGS
from pipeline.backbones.weights import decode_safetensors, install_weights, weights_digest
from pipeline.classes.names import difference
from pipeline.refusal import Refusal, choose, one_line

FORMAT = "saliency-atlas network 1"
HEADS = ("plain", "calm_ml", "calm_em")


@dataclass(frozen=True)
class Recipe:
    """The parts of a fine-tuned network.

    Attributes:
        network, args: timm's name, and the arguments of its constructor.
        size: (H, W) of its images in pixels.
        stride: pixels per cell of the trunk's last map, after the last strides were removed.
        head: `plain`, `calm_ml` or `calm_em`; the two CALM heads differ in the loss they were trained with alone.
        positive, normaliser: of a CALM head, see `heads.location`.
        num_classes, classes: how many, and their names where they are known.
        prepare: mean, std, interpolation of its preprocessing.
        trunk: hash of the trunk's tensors; empty while it is being trained.
    """

    network: str
    size: tuple[int, int]
    stride: int
    head: str
    num_classes: int
    args: Mapping[str, object] = field(default_factory=dict)
    positive: Positive = "softplus"
    normaliser: Normaliser = "ordinary"
    classes: tuple[str, ...] = ()
    prepare: Mapping[str, object] = field(default_factory=dict)
    trunk: str = ""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Recipe":
        fields = json.loads(text)
        tuples = {name: tuple(fields[name]) for name in ("size", "classes")}
        args = {key: tuple(value) if isinstance(value, list) else value for key, value in fields["args"].items()}
        return Recipe(**{**fields, **tuples, "args": args})


def headed(trunk: nn.Module, channels: int, recipe: Recipe, seed: int = 0) -> Headed:
    """The recipe's head, its weights drawn from `seed`, on a trunk."""
    choose(recipe.head, HEADS, "head")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if recipe.head == "plain":
            return Headed(trunk, Plain(channels, recipe.num_classes))
        return Headed(trunk, Calm(channels, recipe.num_classes, recipe.positive, recipe.normaliser))


def differences(one: Recipe, other: Recipe) -> list[str]:
    """A phrase for each field in which `one` differs from `other`."""
    phrases = []
    for name in (entry.name for entry in dataclasses.fields(Recipe)):
        a, b = getattr(one, name), getattr(other, name)
        if name == "classes" and a != b:
            phrases.append(difference(a, b))
        elif isinstance(a, Mapping):
            unlike = [key for key in sorted({*a, *b}) if json.dumps(a.get(key)) != json.dumps(b.get(key))]
            phrases += [f"{name}.{key} {_brief(a.get(key))}, not {_brief(b.get(key))}" for key in unlike]
        elif json.dumps(a) != json.dumps(b):
            phrases.append(f"{name} {_brief(a)}, not {_brief(b)}")
    return phrases


def _brief(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text if len(text) <= 40 else text[:12] + "...")


def encode(recipe: Recipe, state: Mapping[str, Tensor], **extra: str) -> bytes:
    """The file's content; `extra` are texts that travel in the metadata."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    return save(tensors, metadata={"format": FORMAT, "recipe": recipe.to_json(), **extra})


def decode(content: bytes, source: str) -> tuple[Recipe, dict[str, Tensor], dict[str, str]]:
    """Recipe, tensors and metadata of a file's content.

    Raises:
        Refusal: where it is damaged, or no file of this kind.
    """
    try:
        state, metadata = decode_safetensors(content)
    except Exception as error:
        raise Refusal(f"checkpoint {source!r} is damaged or no safetensors file ({type(error).__name__})") from error
    if metadata.get("format") != FORMAT:
        raise Refusal(f"{source!r} was not written by jobs.train; give plain weights as --backbone timm/NAME --weights {source}")
    return Recipe.from_json(metadata["recipe"]), state, metadata


def read(source: str) -> tuple[Recipe, dict[str, Tensor]]:
    """Recipe and tensors of the checkpoint at a path or URL.

    Raises:
        Refusal: where it cannot be read, or is none.
    """
    try:
        content = storage.read_bytes(source)
    except Exception as error:  # each file system has its own
        raise Refusal(f"checkpoint {source!r} cannot be read ({type(error).__name__}: {one_line(error)})") from error
    return decode(content, source)[:2]


class TrainedNetwork(Headed):
    """A network that jobs.train wrote, with its recipe."""

    def __init__(self, trunk: nn.Module, head: nn.Module, recipe: Recipe) -> None:
        super().__init__(trunk, head)
        self.recipe, self.num_classes = recipe, recipe.num_classes
        self.pretrained_cfg = {"input_size": (3, *recipe.size), "crop_pct": 1.0, **recipe.prepare}


def load(source: str) -> TrainedNetwork:
    """The network of a checkpoint, built again.

    Raises:
        Refusal: also where its tensors are not those of its recipe.
    """
    recipe, state = read(source)
    network = timm_models.build(recipe.network, recipe.args, pretrained=False, size=recipe.size, seed=0)
    trunk, _ = strides.trunk(network, recipe.size, recipe.stride)
    with torch.no_grad():
        channels = trunk(torch.zeros(1, 3, *recipe.size)).shape[1]
    built = TrainedNetwork(trunk, headed(trunk, channels, recipe).head, recipe)
    install_weights(built, state, source)
    digest = weights_digest(built.trunk.state_dict())
    if digest != recipe.trunk:
        raise Refusal(f"checkpoint {source!r} holds another trunk ({digest[:12]}) than it says ({recipe.trunk[:12]}); train it again")
    return built


def _build(source: str, options: BuildOptions) -> TrainedNetwork:
    name = LIBRARY.prefix + source
    if options.weights is not None:
        raise Refusal(f"--weights {options.weights}: the checkpoint {name} brings its own weights; leave the option out")
    if options.args:
        argument = next(iter(options.args))
        raise Refusal(f"{name} takes no argument {argument!r}: a checkpoint knows its network; {', '.join(SETTINGS)} may be set")
    return load(source).to(memory_format=torch.channels_last)


def _identity_fields(name: str, network: Any, options: BuildOptions, cut: Cut | OwnCut) -> dict[str, object]:
    return {"recipe": dataclasses.asdict(network.recipe), "weights": weights_digest(network.state_dict())}


def _class_names(network: Any) -> tuple[str, ...]:
    return network.recipe.classes


LIBRARY = Library(
    prefix="train/",
    form="train/<checkpoint>",
    build=_build,
    identity_fields=_identity_fields,
    class_names=_class_names,
)
