"""A network small enough for any test: four convolutions, pooling, a linear layer; one whose head is not linear; and an open_clip one."""

import json
from pathlib import Path

import torch
from torch import nn


def build(num_classes: int = 5, seed: int = 0, curved: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    head = [nn.Linear(12, 12), nn.Tanh()] if curved else []
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head, nn.Linear(12, num_classes),
    )  # fmt: skip


def curved(**arguments) -> nn.Module:
    return build(curved=True, **arguments)


def sharp(curved: bool = False) -> nn.Module:
    """With a classifier that commits itself: at initialisation its probabilities hardly move."""
    network = build(curved=curved)
    network[-1].weight.data *= 5 if curved else 30
    return network


def undecided() -> nn.Module:
    """Sharp, and with nothing to say of a mean-coloured image: which class is the answer hangs on what an image shows."""
    network = sharp()
    with torch.no_grad():
        network[-1].bias -= network(torch.zeros(1, 3, 32, 32))[0]
    return network


def sharp_curved() -> nn.Module:
    return sharp(curved=True)


def lively(**arguments):
    """The tiny network with answers that move with its input.

    As torch draws it, its gradients are 1e-8 of nothing: Adam, which divides a gradient by its own size, would then follow rounding.
    """
    network = build(**arguments)
    for module in network:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data *= 3
    return network


class _Blinded(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x + torch.where(x.mean((1, 2, 3), keepdim=True) > 1.5, float("nan"), 0.0))


def blinded() -> nn.Module:
    """The same network, which a white image overwhelms: its answer is NaN."""
    return _Blinded(build())


def calm(num_classes: int = 5, seed: int = 0) -> nn.Module:
    """A CALM network on the same trunk, its weights enlarged: fresh ones say next to the same of every class and cell."""
    from pipeline.backbones.heads import Calm, Headed

    network = Headed(build(seed=seed)[:6], Calm(12, num_classes))
    with torch.no_grad():
        network.head.classes.weight *= 8
        network.head.place.weight *= 8
    return network


def clip(folder: Path, name: str) -> None:
    """Make a small architecture known to open_clip by this name, as its own are."""
    import open_clip

    vision = {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
