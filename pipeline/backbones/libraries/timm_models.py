"""Networks of timm, by name."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.graph import first_line
from pipeline.backbones.cutting.own_cut import OwnCut
from pipeline.backbones.libraries.registry import BuildOptions, Library
from pipeline.backbones.preprocess import stated_config
from pipeline.backbones.weights import weights_digest, with_weights
from pipeline.refusal import Refusal, choose


def build(model: str, args: Mapping[str, object], *, pretrained: bool, size: tuple[int, int] | None, seed: int) -> nn.Module:
    """The network timm calls `model` (`resnet50.a1_in1k`, `hf-hub:org/name`), with `args` of its constructor.

    Parameters:
        pretrained: fetch its weights from the hub; otherwise they are random, drawn from `seed`.
        size: (H, W) of the images in pixels; the model's own where None.

    Raises:
        Refusal: on an unknown name or argument, a hub out of reach, or a classifier that would stay random on pretrained weights.
    """
    import timm

    if ":" not in model:
        architecture, _, tag = model.partition(".")
        if not timm.is_model(architecture):
            models = timm.list_models()
            if not get_close_matches(architecture, models, cutoff=0.5):
                raise Refusal(f"unknown timm model {architecture!r}, and none of {len(models)} is close; timm.list_models() gives them")
            choose(architecture, models, "timm model")
        if tag:
            choose(model, [*timm.list_models(f"{architecture}.*"), *timm.list_pretrained(f"{architecture}.*")], "timm weights")
    with torch.random.fork_rng(devices=[]):
        args = _pooled(model, dict(args), size)
        torch.manual_seed(seed)
        network = _create(model, args, pretrained, size)
    classes, pretrained_classes = args.get("num_classes", 0), stated_config(network).get("num_classes")
    if pretrained and classes and classes != pretrained_classes:
        raise Refusal(
            f"num_classes={classes} on weights with {pretrained_classes} classes leaves the classifier random; "
            f"pass --weights FILE, or --backbone-args pretrained=false for random weights throughout"
        )
    return network


def _pooled(model: str, args: dict, size: tuple[int, int] | None) -> dict:
    """Arguments with which another `global_pool` leaves a ViT's last norm where its weights have it: on the tokens, before the pooling.

    timm moves it behind an average, as `fc_norm`, which a network trained on its class token (DINOv2, CLIP) has no weights for.
    """
    from timm.models.vision_transformer import VisionTransformer

    without = {key: value for key, value in args.items() if key != "global_pool"}
    if without == args or "fc_norm" in args or ":" in model:
        return args
    network = _create(model, without, False, size)
    unmoved = isinstance(network, VisionTransformer) and isinstance(network.fc_norm, nn.Identity)
    return args | {"fc_norm": False} if unmoved else args


def _create(model: str, args: dict, pretrained: bool, size: tuple[int, int] | None) -> nn.Module:
    """timm.create_model, its errors as refusals; networks of any input size do not know img_size, so it is dropped for them."""
    import timm

    img_size: dict[str, Any] = {"img_size": size} if size else {}
    try:
        return timm.create_model(model, pretrained=pretrained, **args, **img_size)
    except Exception as error:  # constructors and hub clients raise errors of many kinds
        unknown = re.search(r"unexpected keyword argument\W+(?:s\W+)?(\w+)", str(error))
        if unknown and unknown[1] == "img_size" and img_size:
            return _create(model, args, pretrained, None)
        if unknown:
            raise Refusal(f"timm's {model} takes no argument {unknown[1]!r}; take it out of --backbone-args") from error
        if pretrained and not isinstance(error, (TypeError, AssertionError)):
            raise Refusal(
                f"the weights of timm's {model} cannot be fetched ({first_line(error)}); pass --weights FILE, "
                f"or --backbone-args pretrained=false for random weights"
            ) from error
        raise Refusal(
            f"timm cannot build {model} with {args | img_size or 'no arguments'} ({first_line(error)}); change --backbone-args"
        ) from error


def _build(model: str, options: BuildOptions) -> nn.Module:
    args = {key: value for key, value in options.args.items() if key != "pretrained"}
    pretrained = bool(options.args.get("pretrained", True)) and options.weights is None
    return with_weights(build(model, args, pretrained=pretrained, size=options.size, seed=options.seed), options.weights)


def _identity_fields(name: str, network: Any, options: BuildOptions, cut: Cut | OwnCut) -> dict[str, object]:
    """The weights are known by their tensors, so nothing says how they came."""
    args = getattr(network, "_model_args", None)
    if args is None:  # several poolings side by side
        args = {key: value for key, value in options.args.items() if key != "pretrained"}
    args = {key: value for key, value in args.items() if key != "img_size"}
    architecture = stated_config(network).get("architecture") or name
    return {"network": architecture, "args": args, "weights": weights_digest(network.state_dict())}


LIBRARY = Library(
    prefix="timm/",
    form="timm/<model>",
    build=_build,
    identity_fields=_identity_fields,
    takes_img_size=True,
    architecture=lambda model: None if ":" in model else model.partition(".")[0],
)
