"""A network as prepare, trunk and head.

B images, K channels, h w cells, C classes, D features, H W pixels.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor, nn

from pipeline.backbones import checkpoint, open_clip_models, own, timm_models
from pipeline.backbones import probe as probes
from pipeline.backbones import weights as weight_files
from pipeline.backbones.arguments import typed
from pipeline.backbones.cut import Cut, cut_network
from pipeline.backbones.heads import Calm, Headed
from pipeline.backbones.pooled import feature_to_logits, pooled_linear
from pipeline.backbones.pools import Pools, side_by_side
from pipeline.backbones.prepare import SETTINGS, Preprocessing, preprocessing, size_of, stated
from pipeline.classes.texts import TEMPLATES
from pipeline.refusal import Refusal
from pipeline.targets import Phrase

__all__ = ["Backbone", "Preprocessing", "load"]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network, cut at one layer.

    Attributes:
        name: as it was asked for.
        layer: module path of the value that A is.
        num_classes: C; 0 where the network has no classifier, and its logits are its feature, or those of phrases alone.
        channels: K.
        grid: (h, w).
        image_size: (H, W) in pixels.
        prepare: uint8 [B, 3, H, W] -> what `trunk` takes.
        pooled_linear: W [C, K] where the logits are W mean(A) + constant, so that d<d, y>/dA = (d @ W) / (h * w) in every cell;
            None where they are not.
        feature_width: D.
        identity: hash of all that decides the values: architecture, its arguments, the weights' tensors, layer, prepare.
        cut: what computes both halves.
        network: what was cut; its modules are those of the cut.
        phrases: texts, each with its templates, whose logits follow those of the classes; only open_clip's networks have any.
        text: logit scale x unit text embeddings [C + P, E] where classes or phrases are texts, else None; of a probe's classes, its weights.
        origin: what a linear probe on its feature goes with, key by key, where the network has no classifier of its own.
        branches: A -> log g [B, C, h, w] and h [B, 1, h, w] of a CALM network cut behind its trunk; None of any other.
        classes: the names of the classes, where the network brings them.
    """

    name: str
    layer: str
    num_classes: int
    channels: int
    grid: tuple[int, int]
    image_size: tuple[int, int]
    prepare: Preprocessing
    pooled_linear: Tensor | None
    feature_width: int
    identity: str
    cut: Cut | own.OwnCut
    network: object
    phrases: tuple[Phrase, ...] = ()
    text: Tensor | None = None
    origin: Mapping = field(default_factory=dict)
    branches: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    classes: tuple[str, ...] = ()

    @torch.no_grad()
    def trunk(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x [B, 3, H, W] -> A [B, K, h, w] and rest, a tuple of tensors [B, ...], all of them free of any gradient.

        rest may be indexed, repeated and concatenated along B together with A.
        """
        return self.cut.trunk(self._sized(x))

    def head(self, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        """A [B, K, h, w], rest -> logits [B, C + P], those of classes and phrases; differentiable in A."""
        return self.cut.head(A, rest)

    def readout(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """A [B, K, h, w], rest -> logits [B, C] and feature [B, D], in one pass.

        The feature is the input of the linear layer that makes the logits. Where the logits are a sum or mean of several (the two heads
        of a distilled DeiT), it is their inputs side by side, so that the logits are affine in it; where they come from none, it is
        the logits. Of open_clip's networks it is the image's embedding, not of unit length. An object with its own trunk and head may
        bring a readout; else the feature is A's mean over the grid.
        """
        return self.cut.readout(A, rest)

    def logits(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] -> logits [B, C] in one pass; differentiable in x."""
        return self.cut.head(*self.cut.trunk(self._sized(x)))

    def class_weights(self) -> Tensor | None:
        """Rows of the affine map from feature to logits [C, D], one per class; None where the logits are not made from the feature.

        Where the classes are texts, their embeddings; a probe's beside phrases are its weights.
        """
        return self._class_weights if self.text is None else self.text[: self.num_classes]

    @cached_property
    def _class_weights(self) -> Tensor | None:
        device = next((value.device for value in self.cut.state_dict().values()), torch.device("cpu"))
        pixels = torch.zeros(1, 3, *self.image_size, dtype=torch.uint8, device=device)
        return feature_to_logits(self.cut.parts, *self.trunk(self.prepare(pixels)))

    def to(self, device: torch.device | str) -> "Backbone":
        """The same backbone on this device; its modules move, they are not copied."""
        self.cut.to(device)
        moved = {name: value.to(device) for name in ("pooled_linear", "text") if (value := getattr(self, name)) is not None}
        return dataclasses.replace(self, **moved)

    def _sized(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.image_size:
            raise Refusal(f"images of {tuple(x.shape[2:])} pixels reach a backbone cut for {self.image_size}; load it with that image size")
        return x.contiguous(memory_format=torch.channels_last)


def load(
    name: str,
    *,
    weights: str | None = None,
    args: Mapping[str, object] = MappingProxyType({}),
    layer: str | None = None,
    image_size: int | None = None,
    crop: str = "squash",
    seed: int = 0,
    text_classes: tuple[str, ...] = (),
    templates: tuple[str, ...] = TEMPLATES,
    phrases: tuple[Phrase, ...] = (),
    probe: str | None = None,
) -> Backbone:
    """A backbone by name.

    Parameters:
        name: `timm/<model>[.<tag>]`, `timm/hf-hub:<org>/<name>`, `open_clip/<arch>/<tag>`, `open_clip/hf-hub:<org>/<name>`,
            `train/<path or URL>` of a checkpoint that `jobs.train` wrote, or
            `my_module:build` for a network of one's own.
        weights: file, URL or hf-hub:<org>/<name>; the hub's own weights where None.
        args: arguments of the network, and mean, std, interpolation, crop_pct of its preprocessing; text is read as numbers, true, false,
            none or comma-separated tuples. Of a network without a classifier, several poolings (`global_pool=token,avg`, `pool=tok,avg`)
            are features side by side. For timm and open_clip, `img_size=H,W` is an image size that need not be square, and
            `pretrained=false` draws random weights from `seed`; for open_clip see also `open_clip_models.build`.
        layer: module path whose output is A; found where None.
        image_size: side of the square the network looks at, in pixels.
        crop: `squash` or `center`.
        text_classes: texts that are the classes, filled into each of `templates` ({} in them); only for open_clip.
        phrases: texts whose logits follow those of the classes, and touch them in nothing.
        probe: file or URL of a linear probe that is the classifier, in place of the network's own.

    Raises:
        Refusal: one line, with the value that cannot be and the fix.
    """
    settings = {key: typed(value) for key, value in args.items()}
    linear = probes.read(probe) if probe else None
    if linear:
        if name.startswith("timm/") and ":" not in name:  # before its way of pooling meets a network that cannot pool so
            probes.refuse_another(linear, {"network": name.removeprefix("timm/").partition(".")[0]}, probe)
        settings |= probes.pooling(name, linear.pool)
    shown = {key: settings.pop(key) for key in SETTINGS if key in settings}
    size = size_of(image_size)
    if name.startswith(("timm/", "open_clip/")):
        size = size_of(settings.pop("img_size", None)) or size
    recipe = None
    if not name.startswith("open_clip/") and (text_classes or phrases):
        what = "--text-classes" if text_classes else f"a target about the phrase {phrases[0][0]!r}"
        raise Refusal(
            f"{what} needs a text tower, and backbone {name!r} has none; use an open_clip backbone, as open_clip/ViT-B-16/laion400m_e32"
        )
    texts = {"classes": text_classes, "templates": templates, "phrases": phrases}
    key = probes.pooling_key(name)
    if name.startswith("train/"):
        network, recipe = _checkpoint(name, settings, weights)
    elif isinstance(settings.get(key), tuple):
        pools = {pool: {**settings, key: pool} for pool in settings[key]}
        network = side_by_side(name, {pool: _network(name, how, weights, size, seed, texts) for pool, how in pools.items()})
    else:
        network = _network(name, settings, weights, size, seed, texts)
    if name.startswith("timm/"):
        settings.pop("pretrained", None)  # the weights themselves are known by their tensors
    layer = "trunk" if layer is None and isinstance(network, Headed) else layer
    prepare = preprocessing(stated(network), shown, size, crop)
    headless = isinstance(network, nn.Module) and getattr(network, "num_classes", None) == 0
    origin = _origin(name, network, settings, prepare) if headless else {}
    if linear:
        network = probes.with_probe(network, linear, origin, probe)
    cut, images = _halves(network, prepare, layer)
    settings |= {"templates": templates} if name.startswith("open_clip/") else {}
    identity = _identity(name, network, settings, cut, prepare, linear, recipe)
    backbone = _described(name, network, cut, prepare, images, identity)
    brought = linear or recipe
    return dataclasses.replace(
        backbone,
        phrases=phrases,
        origin=origin,
        classes=brought.classes if brought else (),
        branches=_branches(network) if layer == "trunk" else None,
    )


def like(backbone: Backbone, network: object, identity: str) -> Backbone:
    """Another network of the same architecture, cut at the same layer."""
    own_cut = isinstance(backbone.cut, own.OwnCut)
    cut, images = _halves(network, backbone.prepare, None if own_cut else backbone.layer)
    made = _described(backbone.name, network, cut, backbone.prepare, images, identity)
    branches = _branches(network) if backbone.branches else None
    return dataclasses.replace(made, phrases=backbone.phrases, classes=backbone.classes, branches=branches)


def _branches(network: object) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    return network.head.branches if isinstance(network, Headed) and isinstance(network.head, Calm) else None


def _halves(network: object, prepare: Preprocessing, layer: str | None) -> tuple[Cut | own.OwnCut, Tensor]:
    """The network's cut, and the two images that it was made with."""
    images = prepare(torch.randint(0, 256, (2, 3, *prepare.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    return own.OwnCut(network, images, layer) if own.is_cut(network) else cut_network(network, images, layer), images


def _checkpoint(name: str, settings: dict, weights: str | None) -> tuple[Headed, checkpoint.Recipe]:
    """The network of a checkpoint, which brings its own weights and arguments."""
    if weights is not None:
        raise Refusal(f"--weights {weights}: the checkpoint {name} brings its own weights; leave the option out")
    if settings:
        raise Refusal(
            f"{name} takes no argument {next(iter(settings))!r}: a checkpoint knows its network; {', '.join(SETTINGS)} may be set"
        )
    recipe, network = checkpoint.load(name.removeprefix("train/"))
    return network.to(memory_format=torch.channels_last), recipe


def _network(name: str, settings: Mapping, weights: str | None, size: tuple[int, int] | None, seed: int, texts: Mapping) -> object:
    """What is to be cut, with its weights."""
    if name.startswith("open_clip/"):
        return open_clip_models.build(name.removeprefix("open_clip/"), settings, weights=weights, size=size, seed=seed, **texts)
    if name.startswith("timm/"):
        asked = {key: value for key, value in settings.items() if key != "pretrained"}
        pretrained = settings.get("pretrained", True) and weights is None
        network = timm_models.build(name.removeprefix("timm/"), asked, pretrained=pretrained, size=size, seed=seed)
    else:
        network = own.build(_own_name(name), settings, seed=seed)
    if weights is not None:
        if not isinstance(network, nn.Module):
            raise Refusal(f"--weights {weights} is for torch modules, and {name} returned a {type(network).__name__}; let it load its own")
        weight_files.install(network, weight_files.read(weights), weights)
    # convolutions are faster so, and the images come so too: a third on a MobileNetV2, a sixth on a ResNet-18, on a CPU
    return network.to(memory_format=torch.channels_last) if isinstance(network, nn.Module) else network


def _origin(name: str, network: nn.Module, settings: dict, prepare: Preprocessing) -> dict:
    """What decides the feature of a network without a classifier, for a probe to be refused by."""
    network = network.first if isinstance(network, Pools) else network
    arguments = {key: value for key, value in settings.items() if key not in ("num_classes", "pretrained")}
    weights = network.origin if isinstance(network, open_clip_models.Clip) else weight_files.digest(network.state_dict())
    shown = {**dataclasses.asdict(prepare), "args": arguments}
    told = {"network": stated(network).get("architecture") or name, "weights": weights, **shown}
    return json.loads(json.dumps(told, default=str))


def _identity(
    name: str,
    network: object,
    settings: dict,
    cut: Cut | own.OwnCut,
    prepare: Preprocessing,
    linear: probes.Probe | None = None,
    recipe: checkpoint.Recipe | None = None,
) -> str:
    """The libraries' networks are known by name, checkpoints by their recipe; of one's own, the code and every tensor it uses count too."""
    decides = {"layer": cut.layer, "prepare": dataclasses.asdict(prepare)}
    if linear:
        decides["probe"] = weight_files.digest({"weight": linear.weight, "bias": linear.bias})
    if recipe:
        decides |= {"recipe": dataclasses.asdict(recipe), "weights": weight_files.digest(network.state_dict())}
    elif name.startswith("timm/"):
        arguments = {key: value for key, value in getattr(network, "_model_args", settings).items() if key != "img_size"}
        architecture = stated(network).get("architecture") or name
        decides |= {"network": architecture, "args": arguments, "weights": weight_files.digest(network.state_dict())}
    elif name.startswith("open_clip/"):  # phrases decide nothing but the targets that name them
        arguments = {key: value for key, value in settings.items() if key != "pretrained"}
        decides |= {"network": stated(network)["architecture"], "args": arguments, "weights": network.origin}
    else:
        decides |= {"network": name, "args": settings, "code": cut.code, "weights": weight_files.digest(cut.state_dict())}
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def _described(name: str, network: object, cut: Cut | own.OwnCut, prepare: Preprocessing, images: Tensor, identity: str) -> Backbone:
    """The backbone, its sizes read off two images that pass through."""
    with torch.no_grad():
        A, rest = cut.trunk(images)
        logits, feature = cut.readout(A, rest)
        known = isinstance(network, (open_clip_models.Clip, probes.Headed)) or getattr(network, "num_classes", None) == 0
        classes = network.num_classes if known else logits.shape[1]
    W = pooled_linear(cut.head, A, rest)
    return Backbone(
        name, cut.layer, classes, A.shape[1], tuple(A.shape[2:]), prepare.size, prepare, W, feature.shape[1], identity, cut, network,
        text=getattr(network, "rows", None)
    )  # fmt: skip


def _own_name(name: str) -> str:
    """`my_module:build` as it is."""
    if ":" in name and "/" not in name:
        return name
    shown = name.rpartition("/")[2] or "resnet50"
    raise Refusal(
        f"unknown backbone {name!r}; write timm/<model>, as timm/{shown}, open_clip/<arch>/<tag>, train/<checkpoint>, or my_module:build"
    )
