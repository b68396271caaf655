"""A fine-tuned network as one safetensors file: its tensors, and in the file's metadata all that is needed to build it again."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline import storage
from pipeline.backbones import weights as weight_files
from pipeline.backbones.libraries import strides, timm_models
from pipeline.backbones.libraries.heads import Calm, Headed, Plain
from pipeline.refusal import Refusal, choose, one_line

FORMAT = "saliency-atlas network 1"
HEADS = ("plain", "calm_ml", "calm_em")


@dataclass(frozen=True)
class Recipe:
    """What a fine-tuned network is made of.

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
    positive: str = "softplus"
    normaliser: str = "ordinary"
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
    """What tells `one` from `other`, a phrase for each field that differs."""
    found = []
    for name in (entry.name for entry in dataclasses.fields(Recipe)):
        a, b = getattr(one, name), getattr(other, name)
        if name == "classes" and a != b:
            found.append(classes_differ(a, b))
        elif isinstance(a, Mapping):
            unlike = [key for key in sorted({*a, *b}) if json.dumps(a.get(key)) != json.dumps(b.get(key))]
            found += [f"{name}.{key} {_shown(a.get(key))}, not {_shown(b.get(key))}" for key in unlike]
        elif json.dumps(a) != json.dumps(b):
            found.append(f"{name} {_shown(a)}, not {_shown(b)}")
    return found


def classes_differ(a: tuple[str, ...], b: tuple[str, ...]) -> str:
    """How two lists of class names differ, in words."""
    if len(a) != len(b):
        return f"{len(a)} class names, not {len(b)}"
    first = next(i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1])
    return f"class {first} is {a[first]!r}, not {b[first]!r}"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text if len(text) <= 40 else text[:12] + "...")


def encode(recipe: Recipe, state: Mapping[str, Tensor], **beside: str) -> bytes:
    """The file's content; `beside` are texts that travel in the metadata."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    return save(tensors, metadata={"format": FORMAT, "recipe": recipe.to_json(), **beside})


def decode(content: bytes, source: str) -> tuple[Recipe, dict[str, Tensor], dict[str, str]]:
    """Recipe, tensors and metadata of a file's content.

    Raises:
        Refusal: where it is damaged, or no file of this kind.
    """
    from safetensors.torch import load

    try:
        state = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
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


def load(source: str) -> tuple[Recipe, Headed]:
    """The network of a checkpoint, built again.

    Raises:
        Refusal: also where its tensors are not those of its recipe.
    """
    recipe, state = read(source)
    network = timm_models.build(recipe.network, recipe.args, pretrained=False, size=recipe.size, seed=0)
    trunk, _ = strides.trunk(network, recipe.size, recipe.stride)
    with torch.no_grad():
        channels = trunk(torch.zeros(1, 3, *recipe.size)).shape[1]
    built = headed(trunk, channels, recipe)
    weight_files.install(built, state, source)
    found = weight_files.digest(built.trunk.state_dict())
    if found != recipe.trunk:
        raise Refusal(f"checkpoint {source!r} holds another trunk ({found[:12]}) than it says ({recipe.trunk[:12]}); train it again")
    built.num_classes = recipe.num_classes
    built.pretrained_cfg = {"input_size": (3, *recipe.size), "crop_pct": 1.0, **recipe.prepare}
    return recipe, built
