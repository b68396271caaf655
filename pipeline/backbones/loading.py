"""A backbone by name."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from pipeline.backbones import linear_probe as probes
from pipeline.backbones import weights as weight_files
from pipeline.backbones.arguments import typed
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.cutting.cut import Cut, cut_network
from pipeline.backbones.cutting.linear_head import pooled_linear
from pipeline.backbones.identity import _identity, _origin
from pipeline.backbones.libraries import checkpoint, custom, open_clip_models, timm_models
from pipeline.backbones.libraries.heads import Calm, Headed
from pipeline.backbones.libraries.multi_pool import side_by_side
from pipeline.backbones.preprocess import SETTINGS, Preprocessing, preprocessing, size_of, stated
from pipeline.classes.texts import TEMPLATES
from pipeline.refusal import Refusal
from pipeline.targets.registry import Phrase


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
    own_cut = isinstance(backbone.cut, custom.OwnCut)
    cut, images = _halves(network, backbone.prepare, None if own_cut else backbone.layer)
    made = _described(backbone.name, network, cut, backbone.prepare, images, identity)
    branches = _branches(network) if backbone.branches else None
    return dataclasses.replace(made, phrases=backbone.phrases, classes=backbone.classes, branches=branches)


def _branches(network: object) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    return network.head.branches if isinstance(network, Headed) and isinstance(network.head, Calm) else None


def _halves(network: object, prepare: Preprocessing, layer: str | None) -> tuple[Cut | custom.OwnCut, Tensor]:
    """The network's cut, and the two images that it was made with."""
    images = prepare(torch.randint(0, 256, (2, 3, *prepare.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    return custom.OwnCut(network, images, layer) if custom.is_cut(network) else cut_network(network, images, layer), images


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
        network = custom.build(_own_name(name), settings, seed=seed)
    if weights is not None:
        if not isinstance(network, nn.Module):
            raise Refusal(f"--weights {weights} is for torch modules, and {name} returned a {type(network).__name__}; let it load its own")
        weight_files.install(network, weight_files.read(weights), weights)
    # convolutions are faster so, and the images come so too: a third on a MobileNetV2, a sixth on a ResNet-18, on a CPU
    return network.to(memory_format=torch.channels_last) if isinstance(network, nn.Module) else network


def _described(name: str, network: object, cut: Cut | custom.OwnCut, prepare: Preprocessing, images: Tensor, identity: str) -> Backbone:
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
