"""The user's own networks: `my_module:build`."""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping

import torch
from torch import nn

from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.graph import first_line
from pipeline.backbones.cutting.own_cut import OwnCut, TrunkAndHead, has_own_cut
from pipeline.backbones.libraries.eager import not_eager
from pipeline.backbones.libraries.registry import BuildOptions, Library
from pipeline.backbones.weights import weights_digest, with_weights
from pipeline.refusal import Refusal


def build(name: str, args: Mapping[str, object], *, seed: int) -> nn.Module | TrunkAndHead:
    """A torch module, or an object with trunk and head: the result of `build(**args)` of the module.

    The module is found as Python finds it, in the working directory first. Random weights are drawn from `seed`.

    Raises:
        Refusal: where the module or function cannot be had, or the function fails.
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code
        raise Refusal(f"--backbone {name}: {module_name!r} cannot be imported from {os.getcwd()} ({first_line(error)})") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = ", ".join(key for key, value in vars(module).items() if inspect.isfunction(value)) or "none"
        raise Refusal(f"--backbone {name}: {module_name} has no function {function_name!r}; it has {functions}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = function(**args)
    except Exception as error:
        raise Refusal(f"--backbone {name} failed with {dict(args)} ({first_line(error)})") from error
    reason = not_eager(network)
    if reason:
        raise Refusal(f"--backbone {name} returned {reason}")
    if isinstance(network, nn.Module) or has_own_cut(network):
        return network
    raise Refusal(
        f"--backbone {name} returned a {type(network).__name__}; return a torch.nn.Module, "
        f"or an object with trunk(x) -> (A, rest) and head(A, rest) -> logits"
    )


def _build(name: str, options: BuildOptions) -> nn.Module | TrunkAndHead:
    network = build(name, options.args, seed=options.seed)
    if isinstance(network, nn.Module):
        return with_weights(network, options.weights)
    if options.weights is not None:
        kind = type(network).__name__
        raise Refusal(f"--weights {options.weights} is for torch modules, and {name} returned a {kind}; let it load its own")
    return network


def _identity_fields(name: str, network: object, options: BuildOptions, cut: Cut | OwnCut) -> dict[str, object]:
    """The code counts, and every tensor that the cut uses."""
    return {"network": name, "args": options.args, "code": cut.code, "weights": weights_digest(cut.state_dict())}


LIBRARY = Library(prefix="", form="my_module:build", build=_build, identity_fields=_identity_fields)
