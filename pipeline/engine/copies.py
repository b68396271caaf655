"""Masked copies of images, passed through the network: for the masked methods and for the metrics that change images by their maps.

B images, N masks of an image, n rows of a pass, C classes, H W pixels
"""

from collections.abc import Callable

import torch

from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.budget import within_budget
from pipeline.engine.fills import fill_of
from pipeline.engine.forward import autocast
from pipeline.engine.masks import Masks
from pipeline.engine.rehearsal import rehearsing


@torch.no_grad()
def pass_copies(
    batch: Batch,
    masks: Masks,
    read: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None],
    fill: str = "black",
    pixels: torch.Tensor | None = None,
    wanted: torch.Tensor | None = None,
    payer: str = "",
) -> None:
    """Pass the masked copies x m + fill (1 - m) through the network, within the budget and counted in the tally.

    A copy that shows the image as it is has the logits of the batch's own forward: the difference between two passes would be taken for a
    gain or a loss.

    Parameters:
        read: takes the images [n], the numbers of their masks [n] and the logits [n C] of every pass.
        pixels: images [B 3 H W] in [0, 1] to mask instead of the batch's own.
        wanted: which copies [B N] to pass; all of them by default.
        payer: the method or metric whose tally the rows go to.
    """
    own, pixels = pixels is None, pixels_of(batch) if pixels is None else pixels
    backdrop = fill_of(fill, pixels, batch.backbone.prepare) if masks.fill is None else masks.fill
    backdrop = backdrop.expand(len(pixels), *backdrop.shape[1:])
    # mask after mask, so that a mask all images share is painted once for them
    order = torch.arange(masks.count * len(pixels), device=pixels.device) if wanted is None else wanted.T.flatten().nonzero()[:, 0]

    def one_pass(start: int, stop: int) -> None:
        numbers, images = order[start:stop] // len(pixels), order[start:stop] % len(pixels)
        originals = pixels[images]
        x = torch.lerp(backdrop[images], originals, _paint(masks, numbers, images)[:, None])
        with autocast(x.device, batch.precision):
            y = batch.backbone.logits(batch.backbone.prepare.normalise(x)).float()
        if own:
            whole = (x == originals).flatten(1).all(1)
            y = torch.where(whole[:, None], batch.forward.logits[images], y)
        read(images, numbers, y)

    if rehearsing(batch.tally):
        _read_unchanged(batch, order, read)
    within_budget(batch, len(order), one_pass, payer, filled=True)
    batch.tally[payer, "forwards"] += len(order)


def _read_unchanged(batch: Batch, order: torch.Tensor, read: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]) -> None:
    """Have every copy read as if it showed the image as it is: most of a rehearsal's copies are not passed."""
    numbers, images = order // len(batch.pixels), order % len(batch.pixels)
    for image in images.unique():
        own = numbers[images == image]
        read(image.expand(len(own)), own, batch.forward.logits[image].expand(len(own), -1))


def _paint(masks: Masks, numbers: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Masks [n H W] of the rows of a pass; one that all images share is painted once."""
    if not masks.shared:
        return masks.paint(numbers, images)
    distinct, rows = numbers.unique_consecutive(return_inverse=True)
    return masks.paint(distinct, images)[rows]
