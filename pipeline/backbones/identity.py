"""The identity of a network: the hash of everything that decides its values; and its description for probes on its features."""

import dataclasses
import hashlib
import json

from torch import nn

from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.own_cut import OwnCut, TrunkAndHead
from pipeline.backbones.libraries import BuildOptions, library_of
from pipeline.backbones.linear_probe import Probe
from pipeline.backbones.multi_pool import MultiPool
from pipeline.backbones.preprocess import Preprocessing, stated_config
from pipeline.backbones.weights import weights_digest


def origin_of(name: str, network: nn.Module, options: BuildOptions, prepare: Preprocessing) -> dict:
    """The description of a network without a classifier: everything that decides its feature. A probe refuses another network by it."""
    network = network.first if isinstance(network, MultiPool) else network
    origin = {
        "network": stated_config(network).get("architecture") or name,
        "weights": library_of(name).weights_identity(network),
        **dataclasses.asdict(prepare),
        "args": {key: value for key, value in options.args.items() if key not in ("num_classes", "pretrained")},
    }
    return json.loads(json.dumps(origin, default=str))


def identity_of(
    name: str,
    network: nn.Module | TrunkAndHead,
    options: BuildOptions,
    cut: Cut | OwnCut,
    prepare: Preprocessing,
    probe: Probe | None = None,
) -> str:
    """sha256 over layer, preprocessing, probe and the fields that the network's library names."""
    fields: dict[str, object] = {"layer": cut.layer, "prepare": dataclasses.asdict(prepare)}
    if probe:
        fields["probe"] = weights_digest({"weight": probe.weight, "bias": probe.bias})
    fields |= library_of(name).identity_fields(name, network, options, cut)
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()
