"""What the network says of images dimmed by their own maps: the question of ad, ai and ag.

B images, C classes, H W pixels
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.engine.masked import ask
from pipeline.engine.masks import Masks
from pipeline.engine.scene import Scene


def clean(scene: Scene, classes: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of some classes of each image [B 2], and what is left beside them [B 2], in double precision."""
    y = scene.look.logits.double().cpu()
    chosen = scene.probabilities(y).gather(1, torch.tensor(classes))
    return chosen.numpy(), (1 - chosen).numpy()


def dimmed(scene: Scene, maps: Sequence[np.ndarray], classes: Sequence[Sequence[int]], payer: str) -> np.ndarray:
    """The same probabilities [B 2] of the images times their maps [H W], in pixel space: one forward an image."""
    S = torch.tensor(np.stack(maps), dtype=torch.float32, device=scene.pixels.device)
    masks = Masks(key=None, count=1, paint=lambda which, images: S[images], shared=False)
    columns = torch.tensor(classes, device=S.device).T
    directions = [F.one_hot(column, scene.look.logits.shape[1]).float() for column in columns]
    answers = ask(scene, masks, directions, payer=payer)
    return torch.cat([answer.prob for answer in answers], 1).double().cpu().numpy()
