"""Linear probes: a probe is a file with its weight, its bias and the description of its network, and is that network's classifier.

C classes, D features
"""

import json
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline import storage
from pipeline.backbones.cutting.own_cut import TrunkAndHead
from pipeline.backbones.libraries import Library, library_of
from pipeline.backbones.preprocess import stated_config
from pipeline.backbones.weights import decode_safetensors, first_few
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
        trunk: description of its network, key by key (architecture, weights, preprocessing), by which another network is refused.
        about: its training and its accuracy.
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

    description = {"classes": probe.classes, "pool": probe.pool, "trunk": probe.trunk, "about": probe.about}
    metadata = {"form": FORM, **{key: json.dumps(value) for key, value in description.items()}}
    files.write_bytes(url, save({"weight": probe.weight, "bias": probe.bias}, metadata))


def read(url: str) -> Probe:
    """The probe at `url`.

    Raises:
        Refusal: where there is none, the file is something else, or its weights are no numbers.
    """
    from safetensors import SafetensorError

    try:
        content = storage.read_bytes(url)
    except OSError as error:
        raise Refusal(f"there is no probe at {public(url)}; python -m jobs.probe trains one") from error
    try:
        tensors, metadata = decode_safetensors(content)
    except (SafetensorError, ValueError) as error:
        raise Refusal(f"{public(url)} is no safetensors file; give a probe that jobs.probe has written") from error
    if metadata.get("form") != FORM or set(tensors) != {"weight", "bias"}:
        raise Refusal(f"{public(url)} holds {first_few(list(tensors))} and no linear probe; weights of a network go to --weights")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise Refusal(f"{public(url)} holds NaN or infinity: the training that wrote it diverged; train the probe anew")
    description = {key: json.loads(metadata[key]) for key in ("classes", "pool", "trunk", "about")}
    return Probe(tensors["weight"], tensors["bias"], **{**description, "classes": tuple(description["classes"])})


def pooling(backbone: str, pool: str) -> dict[str, object]:
    """Arguments of a backbone that has no classifier and pools by `pool`; where that is empty, in its own way."""
    library = library_of(backbone)
    return dict(library.headless) | ({library.pooling_key: pool} if pool else {})


def trunk_of(origin: dict, backbone: str, pool: str) -> dict:
    """The description of a network that pools in one way, from that of a network that pools in several ways."""
    return {**origin, "args": origin["args"] | {library_of(backbone).pooling_key: pool}} if pool else origin


class ProbedNetwork(nn.Module):
    """A network without a classifier, and a linear one behind it."""

    def __init__(self, network: nn.Module, linear: nn.Linear):
        super().__init__()
        self.network, self.linear = network, linear
        self.num_classes = linear.out_features
        self.pretrained_cfg = stated_config(network)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.network(x))


def refuse_another(probe: Probe, trunk: dict, url: str) -> None:
    """Refuse a network whose description `trunk` differs from that of the probe's network, with the differences."""
    keys = [key for key in trunk if probe.trunk.get(key) != trunk[key]]
    if keys:
        differences = "; ".join(f"{key} was {_brief(probe.trunk.get(key))}, is {_brief(trunk[key])}" for key in keys)
        raise Refusal(
            f"probe {public(url)} was trained on another network: {differences}; give the one it was trained on, or train it anew"
        )


def with_probe(network: nn.Module | TrunkAndHead, library: Library, probe: Probe, trunk: dict, url: str) -> nn.Module:
    """The network with the probe as its classifier; networks of timm and open_clip keep the names of their layers.

    Parameters:
        trunk: description of the network.
        url: of the probe.

    Raises:
        Refusal: where the probe was trained on another network, with the differences.
    """
    refuse_another(probe, {**dict.fromkeys(probe.trunk), **trunk}, url)
    if not isinstance(network, nn.Module):
        raise Refusal(f"probe {public(url)} is for torch modules, and the backbone is a {type(network).__name__}; leave --probe out")
    linear = nn.Linear(probe.weight.shape[1], probe.weight.shape[0])
    linear.load_state_dict({"weight": probe.weight, "bias": probe.bias})
    add_classifier = library.add_classifier or _add_classifier
    return add_classifier(network, linear).eval().requires_grad_(False)


def _add_classifier(network: Any, linear: nn.Linear) -> nn.Module:
    """The network with timm's own classifier, built anew, where that is a linear layer of this shape; else with one behind it."""
    if not hasattr(network, "reset_classifier") or not hasattr(network, "get_classifier"):
        return ProbedNetwork(network, linear)
    network.reset_classifier(linear.out_features)
    classifier = network.get_classifier()
    if isinstance(classifier, nn.Linear) and classifier.weight.shape == linear.weight.shape and classifier.bias is not None:
        classifier.load_state_dict(linear.state_dict())
        return network
    network.reset_classifier(0)
    return ProbedNetwork(network, linear)


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:12]}..."
