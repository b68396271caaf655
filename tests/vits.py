"""Small ViTs of each kind, whose weights are large enough for their attention to prefer some tokens to others."""

import timm
import torch
from torch import nn

SIZE, CLASSES = 64, 5
TINY = {"embed_dim": 32, "num_heads": 2, "depth": 2, "num_classes": CLASSES, "img_size": SIZE}
NETWORKS = {
    "vit": ("vit_tiny_patch16_224", {**TINY}),
    "distilled": ("deit_tiny_distilled_patch16_224", {**TINY}),
    "registers": ("vit_small_patch14_reg4_dinov2", {**TINY, "patch_size": 16}),
    "normed keys": ("vit_tiny_patch16_224", {**TINY, "qk_norm": True}),
    "beit": ("beit_base_patch16_224", {**TINY, "global_pool": "token"}),
    "eva": ("eva02_tiny_patch14_224", {**TINY, "patch_size": 16, "global_pool": "token"}),
}
PREFIX = {"vit": 1, "distilled": 2, "registers": 5, "normed keys": 1, "beit": 1, "eva": 1}


def build(kind: str) -> nn.Module:
    """A network whose weights are large enough for its attention to prefer some tokens to others."""
    name, settings = NETWORKS[kind]
    torch.manual_seed(3)
    network = timm.create_model(name, **settings)
    for path, parameter in network.named_parameters():
        scale = path.rpartition(".")[2] in ("gamma", "gamma_1", "gamma_2") or ("norm" in path and path.endswith("weight"))
        parameter.data = (1.0 if scale else 0.0) + 0.25 * torch.randn_like(parameter)
    return network.eval()
