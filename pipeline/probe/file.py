"""A probe as a file: weight, bias, and what it takes to use it again or to refuse it.

C classes, D features
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline import storage
from pipeline.refusal import Refusal
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

    weight: torch.Tensor
    bias: torch.Tensor
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
        raise Refusal(f"there is no probe at {storage.public(url)}; python -m jobs.probe trains one") from error
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError) as error:
        raise Refusal(f"{storage.public(url)} is no safetensors file; give a probe that jobs.probe has written") from error
    if metadata.get("form") != FORM or set(tensors) != {"weight", "bias"}:
        raise Refusal(f"{storage.public(url)} holds {_few(list(tensors))} and no linear probe; weights of a network go to --weights")
    told = {key: json.loads(metadata[key]) for key in ("classes", "pool", "trunk", "about")}
    return Probe(tensors["weight"], tensors["bias"], **{**told, "classes": tuple(told["classes"])})


def differences(probe: Probe, trunk: dict) -> str:
    """In words, what differs between the network a probe was trained on and this one; empty where nothing does."""
    keys = [key for key in {**probe.trunk, **trunk} if probe.trunk.get(key) != trunk.get(key)]
    return "; ".join(f"{key} was {probe.trunk.get(key)}, is {trunk.get(key)}" for key in keys)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
