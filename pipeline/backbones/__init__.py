"""A network as prepare, trunk and head.

B images, K channels, h w cells, C classes, D features, H W pixels.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor, nn

from pipeline.backbones import checkpoint, own, timm_models
from pipeline.backbones import weights as weight_files
from pipeline.backbones.arguments import typed
from pipeline.backbones.cut import Cut, cut_network
from pipeline.backbones.heads import Calm, Headed
from pipeline.backbones.pooled import feature_to_logits, pooled_linear
from pipeline.backbones.prepare import SETTINGS, Preprocessing, preprocessing
from pipeline.refusal import Refusal

__all__ = ["Backbone", "Preprocessing", "load"]


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network, cut at one layer.

    Attributes:
        name: as it was asked for.
        layer: module path of the value that A is.
        num_classes: C; 0 where the network has no classifier, and its logits are its feature.
        channels: K.
        grid: (h, w).
        image_size: (H, W) in pixels.
        prepare: uint8 [B, 3, H, W] -> what `trunk` takes.
        pooled_linear: W [C, K] where the logits are W mean(A) + constant, so that d<d, y>/dA = (d @ W) / (h * w) in every cell;
            None where they are not.
        feature_width: D.
        identity: hash of all that decides the values: architecture, its arguments, the weights' tensors, layer, prepare.
        cut: what computes both halves.
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
    branches: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    classes: tuple[str, ...] = ()

    @torch.no_grad()
    def trunk(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x [B, 3, H, W] -> A [B, K, h, w] and rest, a tuple of tensors [B, ...], all of them free of any gradient.

        rest may be indexed, repeated and concatenated along B together with A.
        """
        return self.cut.trunk(self._sized(x))

    def head(self, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        """A [B, K, h, w], rest -> logits [B, C]; differentiable in A."""
        return self.cut.head(A, rest)

    def readout(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """A [B, K, h, w], rest -> logits [B, C] and feature [B, D], in one pass.

        The feature is the input of the linear layer that makes the logits. Where the logits are a sum or mean of several (the two heads
        of a distilled DeiT), it is their inputs side by side, so that the logits are affine in it; where they come from none, it is
        the logits. An object with its own trunk and head may bring a readout; else the feature is A's mean over the grid.
        """
        return self.cut.readout(A, rest)

    def logits(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] -> logits [B, C] in one pass; differentiable in x."""
        return self.cut.head(*self.cut.trunk(self._sized(x)))

    def class_weights(self) -> Tensor | None:
        """Rows of the affine map from feature to logits [C, D], one per class; None where the logits are not made from the feature."""
        return self._class_weights

    @cached_property
    def _class_weights(self) -> Tensor | None:
        device = next((value.device for value in self.cut.state_dict().values()), torch.device("cpu"))
        pixels = torch.zeros(1, 3, *self.image_size, dtype=torch.uint8, device=device)
        return feature_to_logits(self.cut.parts, *self.trunk(self.prepare(pixels)))

    def to(self, device: torch.device | str) -> "Backbone":
        """The same backbone on this device; its modules move, they are not copied."""
        self.cut.to(device)
        return dataclasses.replace(self, pooled_linear=None if self.pooled_linear is None else self.pooled_linear.to(device))

    def _sized(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.image_size:
            raise Refusal(f"images of {tuple(x.shape[2:])} pixels reach a backbone cut for {self.image_size}; load it with that image size")
        return x


def load(
    name: str,
    *,
    weights: str | None = None,
    args: Mapping[str, object] = MappingProxyType({}),
    layer: str | None = None,
    image_size: int | None = None,
    crop: str = "squash",
    seed: int = 0,
) -> Backbone:
    """A backbone by name.

    Parameters:
        name: `timm/<model>[.<tag>]`, `timm/hf-hub:<org>/<name>`, `train/<path or URL>` of a checkpoint that `jobs.train` wrote, or
            `my_module:build` for a network of one's own.
        weights: file, URL or hf-hub:<org>/<name>; the hub's own weights where None.
        args: arguments of the network, and mean, std, interpolation, crop_pct of its preprocessing; text is read as numbers, true, false,
            none or comma-separated tuples. For timm, `img_size=H,W` is an image size that need not be square, and `pretrained=false`
            draws random weights from `seed`.
        layer: module path whose output is A; found where None.
        image_size: side of the square the network looks at, in pixels.
        crop: `squash` or `center`.

    Raises:
        Refusal: one line, with the value that cannot be and the fix.
    """
    settings = {key: typed(value) for key, value in args.items()}
    shown = {key: settings.pop(key) for key in SETTINGS if key in settings}
    size = _pair(image_size)
    if name.startswith("timm/"):
        size = _pair(settings.pop("img_size", None)) or size
    network, recipe = _checkpoint(name, settings, weights) if name.startswith("train/") else (None, None)
    network = network or _network(name, settings, weights, size, seed)
    layer = "trunk" if layer is None and isinstance(network, Headed) else layer
    config = _config(network)
    size = size or tuple(config.get("input_size", (3, 224, 224))[1:])
    prepare = preprocessing(config, shown, size, crop)
    images = prepare(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    cut = own.OwnCut(network, images, layer) if own.is_cut(network) else cut_network(network, images, layer)
    identity = _identity(name, network, settings, cut, prepare, recipe)
    latent = isinstance(network, Headed) and isinstance(network.head, Calm) and layer == "trunk"
    found = _described(name, network, cut, prepare, images, identity)
    return dataclasses.replace(found, branches=network.head.branches if latent else None, classes=recipe.classes if recipe else ())


def _checkpoint(name: str, settings: dict, weights: str | None) -> tuple[Headed, checkpoint.Recipe]:
    """The network of a checkpoint, which brings its own weights and arguments."""
    if weights is not None:
        raise Refusal(f"--weights {weights}: the checkpoint {name} brings its own weights; leave the option out")
    if settings:
        raise Refusal(
            f"{name} takes no argument {next(iter(settings))!r}: a checkpoint knows its network; {', '.join(SETTINGS)} may be set"
        )
    recipe, network = checkpoint.load(name.removeprefix("train/"))
    return network, recipe


def _network(name: str, settings: dict, weights: str | None, size: tuple[int, int] | None, seed: int) -> object:
    """What is to be cut, with its weights; `pretrained` leaves the settings, since the weights themselves are known by their tensors."""
    if name.startswith("timm/"):
        pretrained = settings.pop("pretrained", True) and weights is None
        network = timm_models.build(name.removeprefix("timm/"), settings, pretrained=pretrained, size=size, seed=seed)
    else:
        network = own.build(_own_name(name), settings, seed=seed)
    if weights is not None:
        if not isinstance(network, nn.Module):
            raise Refusal(f"--weights {weights} is for torch modules, and {name} returned a {type(network).__name__}; let it load its own")
        weight_files.install(network, weight_files.read(weights), weights)
    return network


def _identity(name: str, network: object, settings: dict, cut: Cut | own.OwnCut, prepare: Preprocessing, recipe=None) -> str:
    """timm's networks are known by name, checkpoints by their recipe; of one's own, the code and every tensor that it uses count too."""
    decides = {"layer": cut.layer, "prepare": dataclasses.asdict(prepare)}
    if recipe:
        decides |= {"recipe": dataclasses.asdict(recipe), "weights": weight_files.digest(network.state_dict())}
    elif name.startswith("timm/"):
        arguments = {key: value for key, value in getattr(network, "_model_args", settings).items() if key != "img_size"}
        architecture = _config(network).get("architecture") or name
        decides |= {"network": architecture, "args": arguments, "weights": weight_files.digest(network.state_dict())}
    else:
        decides |= {"network": name, "args": settings, "code": cut.code, "weights": weight_files.digest(cut.state_dict())}
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def _described(name: str, network: object, cut: Cut | own.OwnCut, prepare: Preprocessing, images: Tensor, identity: str) -> Backbone:
    """The backbone, its sizes read off two images that pass through."""
    with torch.no_grad():
        A, rest = cut.trunk(images)
        logits, feature = cut.readout(A, rest)
        classes = 0 if getattr(network, "num_classes", None) == 0 else logits.shape[1]
    W = pooled_linear(cut.head, A, rest)
    return Backbone(name, cut.layer, classes, A.shape[1], tuple(A.shape[2:]), prepare.size, prepare, W, feature.shape[1], identity, cut)


def _config(network: object) -> dict:
    """What a network states about its input, in timm's keys."""
    config = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None) or {}
    return dict(config) if isinstance(config, Mapping) else vars(config)


def _pair(size: object) -> tuple[int, int] | None:
    """(H, W) from a side or a pair of sides in pixels."""
    pair = size if size is None or isinstance(size, (tuple, list)) else (size, size)
    if pair is not None and (len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair)):
        raise Refusal(f"image size {size!r} is not a number of pixels; write 224, or img_size=224,320 for height and width")
    return pair and tuple(pair)


def _own_name(name: str) -> str:
    """`my_module:build` as it is."""
    if ":" in name and "/" not in name:
        return name
    if name.startswith("open_clip/"):  # its builder belongs beside timm_models
        raise Refusal(f"backbone {name!r}: open_clip is not supported yet; timm has CLIP's image towers, as timm/vit_base_patch16_clip_224")
    shown = name.rpartition("/")[2] or "resnet50"
    raise Refusal(f"unknown backbone {name!r}; write timm/<model>, as timm/{shown}, train/<checkpoint>, or my_module:build")
