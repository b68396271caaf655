"""Checkpoints of open_clip, which hold both towers: where they are published, and how they get into a model. Safetensors only."""

import math
import os
from pathlib import Path
from typing import Any

from pipeline.backbones.cutting.graph import first_line
from pipeline.backbones.weights import HUB, install_weights, read_weights
from pipeline.refusal import Refusal


def install_checkpoint(clip: Any, source: str) -> None:
    """Put a checkpoint of both towers (a file, any URL, or hf-hub:<org>/<name>) into the model, position embeddings resized to the images.

    Raises:
        Refusal: where it is no safetensors, cannot be read or does not fit.
    """
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict
    from timm.layers import resample_abs_pos_embed

    source = cached_file(source, HF_SAFE_WEIGHTS_NAME) if source.startswith(HUB) else source
    if not source.split("?")[0].lower().endswith(".safetensors"):
        raise Refusal(
            f"weights {source!r} are no .safetensors, and for open_clip no pickle is ever loaded; convert them with safetensors.torch.save_file"
        )
    state = convert_state_dict(clip, read_weights(source))
    if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    current = clip.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in current:
            state[name] = state[name].reshape(current[name].shape)
    for name in ("visual.positional_embedding", "visual.attnpool.positional_embedding"):
        if name in state and name in current and len(state[name]) != len(current[name]):
            grid = getattr(clip.visual, "grid_size", None) or (math.isqrt(len(current[name]) - 1),) * 2
            state[name] = resample_abs_pos_embed(state[name][None].float(), grid, num_prefix_tokens=1)[0]
    if getattr(clip.visual, "proj", ...) is None:
        state.pop("visual.proj", None)
    install_weights(clip, state, source)


def published_checkpoint(arch: str, tag: str | None) -> str:
    """A local path of the safetensors that open_clip publishes under this name.

    Raises:
        Refusal: where there is only a pickle, or the hub is out of reach.
    """
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME

    if arch.startswith("local-dir:"):
        return os.path.join(arch.removeprefix("local-dir:"), HF_SAFE_WEIGHTS_NAME)
    if arch.startswith(HUB):
        return cached_file(arch, HF_SAFE_WEIGHTS_NAME)
    published = open_clip.get_pretrained_cfg(arch, tag)
    repository, _, file = published.get("hf_hub", "").rpartition("/")
    if not repository:
        raise Refusal(
            f"open_clip publishes {arch}/{tag} as a pickle alone ({published.get('url')}), and no pickle is ever loaded; "
            f"convert it with safetensors.torch.save_file and give --weights FILE"
        )
    return cached_file(f"hf-hub:{repository}", f"{Path(file).stem}.safetensors" if file else HF_SAFE_WEIGHTS_NAME)


def cached_file(hub: str, file: str) -> str:
    """The local copy of a file of hf-hub:<org>/<name>."""
    from huggingface_hub import hf_hub_download

    try:
        return hf_hub_download(hub.removeprefix(HUB), file)
    except Exception as error:  # the hub's client has errors of many kinds
        raise Refusal(
            f"{file} of {hub} cannot be fetched ({first_line(error)}), and no pickle is ever loaded; give open_clip/<arch> with "
            f"--weights FILE.safetensors, or the tag `none` for random weights"
        ) from error
