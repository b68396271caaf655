"""Load a backbone by name."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbones import linear_probe
from pipeline.backbones.arguments import typed
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.cutting.cut import Cut, cut_network
from pipeline.backbones.cutting.linear_head import pooled_linear
from pipeline.backbones.cutting.own_cut import OwnCut, TrunkAndHead, has_own_cut
from pipeline.backbones.heads import Calm, Headed
from pipeline.backbones.identity import identity_of, origin_of
from pipeline.backbones.libraries import BuildOptions, Library, library_of
from pipeline.backbones.multi_pool import side_by_side
from pipeline.backbones.preprocess import SETTINGS, Preprocessing, preprocessing, size_of, stated_config
from pipeline.backbones.seen import Part, seen_part
from pipeline.backbones.stated import default_layer, has_no_classifier, text_weights
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
        layer: path of the module whose output is A; the one that suits the network where None.
        image_size: side of the square images in pixels; the network's own where None.
        crop: `squash` or `center`.
        text_classes: texts that are the classes, filled into each of `templates` ({} in them); only for open_clip.
        phrases: texts whose logits follow those of the classes and leave them as they are.
        probe: file or URL of a linear probe that is the classifier, in place of the network's own.

    Raises:
        Refusal: one line, with the bad value and the fix.
    """
    library = library_of(name)
    arguments = {key: typed(value) for key, value in args.items()}
    linear = _read_probe(name, library, probe) if probe else None
    if linear:
        arguments |= linear_probe.pooling(name, linear.pool)
    settings = {key: arguments.pop(key) for key in SETTINGS if key in arguments}
    size = size_of(image_size)
    if library.takes_img_size:
        size = size_of(arguments.pop("img_size", None)) or size
    options = BuildOptions(arguments, weights, size, seed, text_classes, templates, phrases)
    network = _build(name, library, options)
    prepare = preprocessing(stated_config(network), settings, size, crop)
    layer = layer or default_layer(network)
    origin = _origin(name, network, options, prepare)
    classes = library.class_names(network)
    if probe and linear:
        network, classes = linear_probe.with_probe(network, library, linear, origin, probe), linear.classes
    cut, images = _cut(network, prepare, layer)
    identity = identity_of(name, network, options, cut, prepare, linear)
    branches = _branches(network) if layer == "trunk" else None
    fields: dict[str, Any] = {"phrases": phrases, "origin": origin, "classes": classes, "branches": branches}
    return _backbone(name, network, cut, prepare, images, identity, seen=_seen(cut, images), **fields)


def like(backbone: Backbone, network: nn.Module | TrunkAndHead, identity: str) -> Backbone:
    """Another network of the same architecture, cut at the same layer."""
    prepare, phrases, classes = backbone.prepare, backbone.phrases, backbone.classes
    cut, images = _cut(network, prepare, None if isinstance(backbone.cut, OwnCut) else backbone.layer)
    branches = _branches(network) if backbone.branches else None
    fields: dict[str, Any] = {"classes": classes, "branches": branches, "seen": backbone.seen}
    return _backbone(backbone.name, network, cut, prepare, images, identity, phrases=phrases, **fields)


def _seen(cut: Cut | OwnCut, images: Tensor) -> Part | None:
    return seen_part(lambda x: cut.head(*cut.trunk(x)), images, cut.covered if isinstance(cut, Cut) else None)


def _read_probe(name: str, library: Library, url: str) -> linear_probe.Probe:
    """The probe at `url`, refused where the name alone says that it is of another network."""
    probe = linear_probe.read(url)
    architecture = library.architecture(name.removeprefix(library.prefix))
    if architecture:  # before its way of pooling meets a network that cannot pool so
        linear_probe.refuse_another(probe, {"network": architecture}, url)
    return probe


def _origin(name: str, network: nn.Module | TrunkAndHead, options: BuildOptions, prepare: Preprocessing) -> dict:
    """The description of a network without a classifier; empty for any other."""
    if not isinstance(network, nn.Module) or not has_no_classifier(network):
        return {}
    return origin_of(name, network, options, prepare)


def _build(name: str, library: Library, options: BuildOptions) -> nn.Module | TrunkAndHead:
    """The network with its weights; of one without a classifier, several poolings side by side."""
    if (options.classes or options.phrases) and not library.reads_texts:
        texts = "--text-classes" if options.classes else f"a target about the phrase {options.phrases[0][0]!r}"
        raise Refusal(
            f"{texts} needs a text tower, and backbone {name!r} has none; use an open_clip backbone, as open_clip/ViT-B-16/laion400m_e32"
        )
    model, pools = name.removeprefix(library.prefix), options.args.get(library.pooling_key)
    if not isinstance(pools, tuple):
        return library.build(model, options)
    variants = {pool: dataclasses.replace(options, args={**options.args, library.pooling_key: pool}) for pool in pools}
    return side_by_side(name, {pool: library.build(model, variant) for pool, variant in variants.items()})


def _branches(network: object) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    return network.head.branches if isinstance(network, Headed) and isinstance(network.head, Calm) else None


def _cut(network: nn.Module | TrunkAndHead, prepare: Preprocessing, layer: str | None) -> tuple[Cut | OwnCut, Tensor]:
    """The network's cut, and the two images that it was made with."""
    images = prepare(torch.randint(0, 256, (2, 3, *prepare.size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    if has_own_cut(network, images):
        return OwnCut(network, images, layer), images
    assert isinstance(network, nn.Module), "a library builds nothing else"
    return cut_network(network, images, layer), images


def _backbone(
    name: str,
    network: nn.Module | TrunkAndHead,
    cut: Cut | OwnCut,
    prepare: Preprocessing,
    images: Tensor,
    identity: str,
    phrases: tuple[Phrase, ...],
    **fields: Any,
) -> Backbone:
    """The backbone, its sizes read off two images that pass through; `fields` are those that no image decides."""
    with torch.no_grad():
        A, rest = cut.trunk(images)
        logits, feature = cut.readout(A, rest)
    return Backbone(
        name=name,
        layer=cut.layer,
        num_classes=0 if has_no_classifier(network) else logits.shape[1] - len(phrases),
        channels=A.shape[1],
        grid=(A.shape[2], A.shape[3]),
        image_size=prepare.size,
        prepare=prepare,
        pooled_linear=pooled_linear(cut.head, A, rest),
        feature_width=feature.shape[1],
        identity=identity,
        cut=cut,
        network=network,
        phrases=phrases,
        text=text_weights(network),
        **fields,
    )
