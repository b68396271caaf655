"""Networks of timm, by name."""

import re
from collections.abc import Mapping
from difflib import get_close_matches

import torch
from torch import nn

from pipeline.backbones.cutting.graph import line
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
            known = timm.list_models()
            if not get_close_matches(architecture, known, cutoff=0.5):
                raise Refusal(f"unknown timm model {architecture!r}, and none of {len(known)} is close; timm.list_models() gives them")
            choose(architecture, known, "timm model")
        if tag:
            choose(model, [*timm.list_models(f"{architecture}.*"), *timm.list_pretrained(f"{architecture}.*")], "timm weights")
    with torch.random.fork_rng(devices=[]):
        args = _pooled(model, dict(args), size)
        torch.manual_seed(seed)
        network = _create(model, args, pretrained, size)
    classes, known = args.get("num_classes", 0), network.pretrained_cfg.get("num_classes")
    if pretrained and classes and classes != known:
        raise Refusal(
            f"num_classes={classes} on weights with {known} classes leaves the classifier random; "
            f"pass --weights FILE, or --backbone-args pretrained=false for random weights throughout"
        )
    return network


def _pooled(model: str, args: dict, size: tuple[int, int] | None) -> dict:
    """Arguments with which another `global_pool` leaves a ViT's last norm where its weights have it: on the tokens, before the pooling.

    timm moves it behind an average, as `fc_norm`, which a network trained on its class token (DINOv2, CLIP) has no weights for.
    """
    from timm.models.vision_transformer import VisionTransformer

    own = {key: value for key, value in args.items() if key != "global_pool"}
    if own == args or "fc_norm" in args or ":" in model:
        return args
    network = _create(model, own, False, size)
    unmoved = isinstance(network, VisionTransformer) and isinstance(network.fc_norm, nn.Identity)
    return args | {"fc_norm": False} if unmoved else args


def _create(model: str, args: dict, pretrained: bool, size: tuple[int, int] | None) -> nn.Module:
    """timm.create_model, its errors as refusals; networks of any input size do not know img_size, so it is dropped for them."""
    import timm

    sized = {"img_size": size} if size else {}
    try:
        return timm.create_model(model, pretrained=pretrained, **args, **sized)
    except Exception as error:  # constructors and hub clients raise errors of many kinds
        unknown = re.search(r"unexpected keyword argument\W+(?:s\W+)?(\w+)", str(error))
        if unknown and unknown[1] == "img_size" and sized:
            return _create(model, args, pretrained, None)
        if unknown:
            raise Refusal(f"timm's {model} takes no argument {unknown[1]!r}; take it out of --backbone-args") from error
        if pretrained and not isinstance(error, (TypeError, AssertionError)):
            raise Refusal(
                f"the weights of timm's {model} cannot be fetched ({line(error)}); pass --weights FILE, "
                f"or --backbone-args pretrained=false for random weights"
            ) from error
        raise Refusal(f"timm cannot build {model} with {args | sized or 'no arguments'} ({line(error)}); change --backbone-args") from error
