"""The CAM family's maps of one look, for every method of a target: the gradient of a direction is computed once for all of them.

B images, K channels, h w cells, H W pixels, C classes, T directions
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.engine.look import Look
from pipeline.families import METHODS, Cam, rectify
from pipeline.requests import Request
from pipeline.targets import Explained


@dataclass(frozen=True)
class Scene:
    """What the CAM family may ask for, for one target of one batch; `dA` and `weights` hold one entry per direction."""

    A: torch.Tensor
    dA: list[torch.Tensor]
    weights: list[torch.Tensor]
    size: tuple[int, int]
    noise: Callable[[str], torch.Tensor]

    def __getitem__(self, image: int) -> "Scene":
        """The scene of one image, still a batch."""
        one = slice(image, image + 1)
        return Scene(self.A[one], [g[one] for g in self.dA], [w[one] for w in self.weights], self.size, lambda name: self.noise(name)[one])


def scene_of(
    look: Look, explained: Explained, size: tuple[int, int], noise: Callable[[str], torch.Tensor], gradients: bool = True
) -> Scene:
    """What one target's maps are made of. `gradients` False leaves out dA, which no method asks for."""
    W, directions = look.backbone.pooled_linear, list(explained.directions.unbind(1))
    dA = look.gradients(directions) if gradients else []
    return Scene(look.A.detach().float(), dA, [d @ W for d in directions] if W is not None else [], size, noise)


def cam_map(method: Request, scene: Scene, explained: Explained) -> torch.Tensor:
    """The map [B h w] of one method for one target, after the rectifier, its directions joined as the target says.

    max_pre is the largest over the directions before the rectifier, mean_post the mean after it (Finer-CAM supplement table 7).
    """
    cam: Cam = METHODS[method.name]
    settings = method.args
    norm = settings.pop("norm")
    maps = [_one(cam, scene, t, settings) for t in range(1 if cam.class_free else explained.directions.shape[1])]
    if explained.join == "mean_post":
        return torch.stack([rectify(m, norm) for m in maps]).mean(0)
    return rectify(torch.stack(maps).amax(0), norm)


def _one(cam: Cam, scene: Scene, t: int, settings: dict) -> torch.Tensor:
    offered = {
        "A": lambda: scene.A,
        "dA": lambda: scene.dA[t],
        "weights": lambda: scene.weights[t],
        "noise": lambda: scene.noise(cam.name),
        "size": lambda: scene.size,
    }
    return cam.map(**{name: offered[name]() for name in cam.asks}, **settings)
