"""A linear probe: a file with its weight, its bias and the network it was trained on, and that network with it as its classifier.

C classes, D features
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline import storage
from pipeline.backbones.libraries import open_clip_models
from pipeline.refusal import Refusal, public
from pipeline.tables import files

FORM = "saliency-atlas linear probe 1"


@dataclass(frozen=True)
class Probe:
    """A linear classifier on a frozen network's pooled feature.

    Attributes:
        weight, bias: float32 [C D] and [C].
        classes: names in class order.
        pool: how the feature is pooled; empty for the network's own way.
        trunk: what the network was, key by key (architecture, weights, preprocessing); another network is refused by it.
        about: how it was trained and how often it was right.
    """

    weight: Tensor
    bias: Tensor
    classes: tuple[str, ...]
    pool: str
    trunk: dict
    about: dict


def write(url: str, probe: Probe) -> None:
    """The probe as safetensors, its description in the header."""
    from safetensors.torch import save

    told = {"classes": probe.classes, "pool": probe.pool, "trunk": probe.trunk, "about": probe.about}
    metadata = {"form": FORM, **{key: json.dumps(value) for key, value in told.items()}}
    files.write_bytes(url, save({"weight": probe.weight, "bias": probe.bias}, metadata))


def read(url: str) -> Probe:
    """The probe at `url`.

    Raises:
        Refusal: where there is none, or the file is something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = storage.read_bytes(url)
    except OSError as error:
        raise Refusal(f"there is no probe at {public(url)}; python -m jobs.probe trains one") from error
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError) as error:
        raise Refusal(f"{public(url)} is no safetensors file; give a probe that jobs.probe has written") from error
    if metadata.get("form") != FORM or set(tensors) != {"weight", "bias"}:
        raise Refusal(f"{public(url)} holds {_few(list(tensors))} and no linear probe; weights of a network go to --weights")
    told = {key: json.loads(metadata[key]) for key in ("classes", "pool", "trunk", "about")}
    return Probe(tensors["weight"], tensors["bias"], **{**told, "classes": tuple(told["classes"])})


def pooling_key(backbone: str) -> str:
    """The argument of a backbone that says how it pools."""
    return "pool" if backbone.startswith("open_clip/") else "global_pool"


def pooling(backbone: str, pool: str) -> dict[str, object]:
    """Arguments of a backbone that has no classifier and pools in a given way; empty for its own way."""
    headless = {} if backbone.startswith("open_clip/") else {"num_classes": 0}
    return headless | ({pooling_key(backbone): pool} if pool else {})


def trunk_of(origin: dict, backbone: str, pool: str) -> dict:
    """What a network that pools in one way was, from what one that pools in several ways was."""
    return {**origin, "args": origin["args"] | {pooling_key(backbone): pool}} if pool else origin


class Headed(nn.Module):
    """A network without a classifier, and a linear one behind it."""

    def __init__(self, network: nn.Module, linear: nn.Linear):
        super().__init__()
        self.network, self.linear = network, linear
        self.num_classes = linear.out_features
        self.pretrained_cfg = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.network(x))


def refuse_another(probe: Probe, trunk: dict, url: str) -> None:
    """Refuse a network of which `trunk` tells something else than the probe's, in words what differs."""
    keys = [key for key in trunk if probe.trunk.get(key) != trunk[key]]
    if keys:
        told = "; ".join(f"{key} was {_brief(probe.trunk.get(key))}, is {_brief(trunk[key])}" for key in keys)
        raise Refusal(f"probe {public(url)} was trained on another network: {told}; give the one it was trained on, or train it anew")


def with_probe(network: nn.Module, probe: Probe, trunk: dict, url: str) -> nn.Module:
    """The network with the probe as its classifier; networks of timm and open_clip keep the names of their layers.

    Raises:
        Refusal: where the probe was trained on another network, in words what differs.
    """
    refuse_another(probe, {**dict.fromkeys(probe.trunk), **trunk}, url)
    linear = nn.Linear(probe.weight.shape[1], probe.weight.shape[0])
    linear.load_state_dict({"weight": probe.weight, "bias": probe.bias})
    if isinstance(network, open_clip_models.Clip):
        network.linear, network.num_classes = linear, linear.out_features
        network.rows = None if network.rows is None else torch.cat([linear.weight.detach(), network.rows])
    elif _takes(network, linear):
        network.get_classifier().load_state_dict(linear.state_dict())
    else:
        network = Headed(network, linear)
    return network.eval().requires_grad_(False)


def _takes(network: nn.Module, linear: nn.Linear) -> bool:
    """Whether timm's own classifier, built anew, is a linear layer of this shape."""
    if not hasattr(network, "reset_classifier") or not hasattr(network, "get_classifier"):
        return False
    network.reset_classifier(linear.out_features)
    own = network.get_classifier()
    if isinstance(own, nn.Linear) and own.weight.shape == linear.weight.shape and own.bias is not None:
        return True
    network.reset_classifier(0)
    return False


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:12]}..."


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
