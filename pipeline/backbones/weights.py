"""Tensors from a file, a URL or a hub, put into a network, and hashed."""

import hashlib
import io
import json
import pickle
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.backbones.stated import has_no_classifier
from pipeline.refusal import Refusal

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
HUB = "hf-hub:"
WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model")
COUNTERS = "num_batches_tracked"  # BatchNorm counts with it in training; it decides no value


def read_weights(source: str) -> dict[str, Tensor]:
    """The state dict at `source`: a local path, any URL fsspec opens, or hf-hub:org/name.

    Raises:
        Refusal: where it cannot be read, is no state dict, holds code, or holds NaN or infinity.
    """
    state = _unwrapped(_from_hub(source) if source.startswith(HUB) else _from_file(source), source)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise Refusal(f"weights {source!r} hold no state dict (names with tensors); save the network's state_dict() as safetensors")
    broken = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise Refusal(f"weights {source!r} hold NaN or infinity in {first_few(broken)}; the training that wrote them diverged")
    return {_unwrap(name): value for name, value in state.items()}


def install_weights(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put every tensor of `state` into the network.

    Where names or shapes differ and the network's family has timm's own filter for old or resized checkpoints, that is tried too. A network
    of timm without classes leaves the classifier of the file out. Where the network's names all stand behind one prefix, as behind `model.`
    in a checkpoint of Lightning, they are taken from there, and what stands beside them is left out.

    Raises:
        Refusal: naming the first few keys that are missing, unexpected or of another shape, or the prefixes where there are several.
    """
    state = _converted(network, _without_classifier(network, state))
    differences = _differences(network, state)
    if differences:
        prefixes = _prefixes(network, state)
        if len(prefixes) > 1:
            raise Refusal(
                f"weights {source!r} hold this network {len(prefixes)} times, behind {first_few(prefixes)}; save one alone: "
                f"{{name.removeprefix({prefixes[0]!r}): value for name, value in state.items() if name.startswith({prefixes[0]!r})}}"
            )
        if prefixes:
            state = _converted(network, _behind(prefixes[0], network, state))
        differences = _differences(network, state)
    if differences:
        raise Refusal(f"weights {source!r} do not fit the network: {_class_advice(network, state) or '; '.join(differences)}")
    network.load_state_dict(state, strict=False)


def _unwrapped(state: object, source: str) -> object:
    """The state dict inside the dictionaries that trainings save: behind a well-known key, or behind the one key that has one."""
    while isinstance(state, Mapping) and not _is_state_dict(state):
        keys = [key for key in WRAPPERS if isinstance(state.get(key), Mapping)][:1]
        keys = keys or [key for key, value in state.items() if _is_state_dict(value)]
        if len(keys) > 1:
            raise Refusal(
                f"weights {source!r} hold several state dicts ({first_few(list(map(str, keys)))}); save one alone, as "
                f"torch.save(torch.load(FILE, weights_only=True)[{keys[0]!r}], OTHER)"
            )
        if not keys:
            break
        state = state[keys[0]]
    return state


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(part, Tensor) for part in value.values())


def _without_classifier(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state without the classifier of a network of timm, where the network has none."""
    if not has_no_classifier(network):
        return state
    config = getattr(network, "pretrained_cfg", None) or {}
    names = config.get("classifier") or () if isinstance(config, Mapping) else ()
    classifier = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    return {name: value for name, value in state.items() if not classifier or not name.startswith(classifier)}


def _prefixes(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """The prefixes behind which the names in the file are those of the network."""
    names = {name for name in network.state_dict() if not name.endswith(COUNTERS)}
    one = min(names, default="")
    prefixes = dict.fromkeys(name.removesuffix(one) for name in state if name.endswith(f".{one}"))
    return [prefix for prefix in prefixes if {name for name in _behind(prefix, network, state) if not name.endswith(COUNTERS)} == names]


def _behind(prefix: str, network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return _without_classifier(network, part)


def _converted(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state as timm's own filter of the network's family makes it, where it fits then."""
    convert = getattr(sys.modules.get(type(network).__module__), "checkpoint_filter_fn", None)
    if not convert or not _differences(network, state):
        return state
    try:
        converted = convert(dict(state), network)
    except Exception:  # a filter meets a file it does not know; the keys as they are make the better message
        return state
    return state if _differences(network, converted) else converted


def with_weights(network: nn.Module, source: str | None) -> nn.Module:
    """The network with the weights at `source`, its own where None, its convolutions' weights in channels-last order."""
    if source is not None:
        install_weights(network, read_weights(source), source)
    # convolutions are faster so, and the images come so too: a third on a MobileNetV2, a sixth on a ResNet-18, on a CPU
    return network.to(memory_format=torch.channels_last)


def decode_safetensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        SafetensorError, ValueError: where the content is damaged or something else.
    """
    from safetensors.torch import load

    state = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return state, header.get("__metadata__") or {}


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, sorted by name; the same on every machine."""
    sha256 = hashlib.sha256()
    for name in sorted(name for name in state if not name.endswith(COUNTERS)):
        value = state[name].detach().cpu().contiguous()
        sha256.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        sha256.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _from_file(source: str) -> object:
    import fsspec

    name = source.split("?")[0].lower()
    if not name.endswith((".safetensors", *PICKLES)):
        raise Refusal(f"weights {source!r} are neither .safetensors nor {' '.join(PICKLES)}; save them as safetensors")
    try:
        with fsspec.open(source, "rb") as file:
            content = file.read()
    except Exception as error:  # each file system has its own
        raise Refusal(f"weights {source!r} cannot be read ({type(error).__name__}: {error})") from error
    try:
        if name.endswith(".safetensors"):
            return decode_safetensors(content)[0]
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refusal(f"weights {source!r} are a pickle of more than tensors, which could run code; save them as safetensors") from error
    except Exception as error:
        raise Refusal(f"weights {source!r} are damaged or not what their name says ({type(error).__name__})") from error


def _from_hub(source: str) -> object:
    from timm.models import load_state_dict_from_hf

    try:
        return load_state_dict_from_hf(source.removeprefix(HUB), weights_only=True)
    except Exception as error:  # the hub's client has errors of many kinds
        raise Refusal(f"weights {source!r} cannot be fetched ({type(error).__name__}); check the id, or pass --weights FILE") from error


def _unwrap(name: str) -> str:
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    return name


def _differences(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """One phrase each for keys that are missing, unexpected or of another shape."""
    current = network.state_dict()
    kinds = {
        "missing": [name for name in current if name not in state and not name.endswith(COUNTERS)],
        "unexpected": [name for name in state if name not in current],
        "mis-shaped": [f"{name} {list(state[name].shape)} for {list(current[name].shape)}" for name in _list_misfits(current, state)],
    }
    return [f"{len(names)} {kind} ({first_few(names)})" for kind, names in kinds.items() if names]


def _list_misfits(current: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    return [name for name in current if name in state and state[name].shape != current[name].shape]


def _class_advice(network: nn.Module, state: Mapping[str, Tensor]) -> str:
    """The advice where nothing but the number of classes differs."""
    current = network.state_dict()
    misshaped = _list_misfits(current, state)
    counts = {(len(state[name]), len(current[name])) for name in misshaped}
    if set(current) != set(state) or len(counts) != 1 or any(state[name].shape[1:] != current[name].shape[1:] for name in misshaped):
        return ""
    ((in_file, in_network),) = counts
    return f"weights have {in_file} classes, the network was built with {in_network}: --backbone-args num_classes={in_file}"


def first_few(names: Sequence[str]) -> str:
    """Three names of a list, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
