"""Meaningful perturbation (Fong and Vedaldi 2017, eq. 3): the least that must be blurred for the class's probability to fall."""

from typing import Literal

import torch
import torch.nn.functional as F

from pipeline.families import Amount, Count, Descent, Positive, Whole, optimised


def variation(m, beta):
    """sum |grad m|^beta of [n h w], forward differences, 0 across the border."""
    down, right = m.diff(dim=1, append=m[:, -1:]), m.diff(dim=2, append=m[:, :, -1:])
    return (down.square() + right.square()).clamp(min=1e-20).pow(beta / 2).sum((1, 2))


def shifted(images, offset):
    """Each of the images [n M 3 H W] moved by its own offset (down, right) [n 2], the border's pixels repeated."""
    y, x = ((torch.arange(n, device=offset.device) - offset[:, i, None]).clamp(0, n - 1) for i, n in enumerate(images.shape[3:]))
    image = torch.arange(len(images), device=offset.device)[:, None, None]
    return images.movedim((3, 4), (1, 2))[image, y[:, :, None], x[:, None]].movedim((1, 2), (3, 4))


def circles(pixels, blur, size, number, soft):
    """Masks [R size size] that keep all but a soft disc in the middle, of radius 0, 5, 10 ... pixels of 224; the last keeps the least."""
    y, x = (torch.arange(n, device=pixels.device) - (n - 1) / 2 for n in pixels.shape[2:])
    radii = torch.arange(number, device=pixels.device) * 5 * min(pixels.shape[2:]) / 224
    discs = ((y[:, None] ** 2 + x**2).sqrt() < radii[:, None, None]).float()
    return 1 - F.adaptive_avg_pool2d(blur(discs, soft), size).double()  # as 1 - m is stored, rounding near m = 1 would show


def sufficient(scores):
    """The first mask that takes 99 % of the last one's loss of the score [n R] -> [n]; the last one where none does."""
    share = (scores - scores[:, -1:]) / (scores[:, :1] - scores[:, -1:])
    return torch.cat([share[:, :-1] < 0.01, torch.ones_like(share[:, -1:], dtype=torch.bool)], 1).float().argmax(1)


@optimised(grid="pixels")
def mask(
    pixels, blur, uniform, *, steps: Count = 300, lr: Positive = 0.1, cells: Count = 28, away: Positive = 10.0, soft: Positive = 5.0,
    area: Amount = 1e-4, smooth: Amount = 1e-2, beta: Positive = 3.0, jitter: Whole = 4, start: Literal["circle", "ones"] = "circle",
):  # fmt: skip
    """min over m in [0, 1] of <d, p(m x + (1 - m) blur(x))> + area sum(1 - m) + smooth sum |grad m|^beta; 1 - m on `cells` x `cells`.

    `away`: std in pixels of the blur that takes evidence away; `soft`: of the one that softens the upsampled mask. Each step moves the
    image by up to `jitter` pixels, drawn from its seed. `circle` looks for the smallest soft disc that does it: 35 more forwards.
    """
    shifts = (uniform(steps, 2) * (jitter + 1)).long() - jitter // 2

    def paint(m, step, pixels, blurred, shifts):
        up = blur(F.interpolate(m[:, None], pixels.shape[2:], mode="bilinear"), soft)
        copies = (blurred + up.float() * (pixels - blurred))[:, None]
        copies = copies if step is None else shifted(copies, shifts[:, step])
        return copies, area * (1 - m).abs().sum((1, 2)) + smooth * variation(m, beta)

    choose = sufficient if start == "circle" else None
    first = circles(pixels, blur, cells, 35, 10.0) if choose else pixels.new_ones(len(pixels), cells, cells, dtype=torch.float64)
    return Descent(
        first, (pixels, blur(pixels, away), shifts), paint, lambda scores, clean: scores[:, 0], lambda m, *context: 1 - m, steps, lr,
        scalar="prob", keep="last", settle=lambda m: m.clamp(0, 1), choose=choose,
    )  # fmt: skip
