"""What decides the values of a network, and of a probe on its features."""

import dataclasses
import hashlib
import json

from torch import nn

from pipeline.backbones import linear_probe as probes
from pipeline.backbones import weights as weight_files
from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.libraries import checkpoint, custom, open_clip_models
from pipeline.backbones.libraries.multi_pool import Pools
from pipeline.backbones.preprocess import Preprocessing, stated


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
    cut: Cut | custom.OwnCut,
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
