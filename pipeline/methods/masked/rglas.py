"""RGLAS (Gaussian light and shadow, algorithm 1): GLAS again and again, each round on the image without the last one's map."""

from collections.abc import Callable

import torch

from pipeline.families import Amount, Count, Even, Fraction, Positive, gaussians, light, masked, shadow, units

RECIPES: dict[str, Callable] = {"light": light, "shadow": shadow, "whole": lambda: Even(1.0)}
PRESETS = {"fine": {}, "ilsvrc": {"sigma_light": 5.0, "sigma_map": 6.0}}


@masked(RECIPES, grid="pixels", presets=PRESETS, rendering=gaussians, version=2)
def rglas(
    pixels,
    clean,
    again,
    draw,
    *,
    k: Count = 15,
    lam: Amount = 1e-5,
    t1: Fraction = 0.8,
    t2: Positive = 5.0,
    rounds: Count = 10,
):
    """O = sum_t n(S_t) [B H W]. After each round points under n(S_t) > t1 leave the search and the image becomes I (1 - n(S_t)).

    An image is done when sqrt(mean n(S_t) / p(I)) >= t2, no point is left, or S_t is flat: later rounds would only repeat it.
    """
    prob, total = clean.prob, torch.zeros_like(pixels[:, 0])
    S = total
    points = torch.ones(len(pixels), k * k, dtype=torch.bool, device=pixels.device)
    rows, columns = (((torch.arange(k, device=pixels.device) + 0.5) * side / k).long() for side in pixels.shape[2:])
    for t in range(rounds):
        if t:
            prob = again("whole", pixels, points.any(1, keepdim=True)).prob[:, 0]
            points = points & ((S.mean((1, 2)) / prob.clamp(min=1e-12)).sqrt() < t2)[:, None]
        if not points.any():
            break
        f_l, shadow = again("light", pixels, points).prob, again("shadow", pixels, points).prob
        f = (f_l * ((prob[:, None] - shadow).abs() + lam)).relu() * points
        S = units(draw(f.view(-1, k, k)))
        total, pixels = total + S, pixels * (1 - S[:, None])
        under = S[:, rows][:, :, columns].flatten(1)
        points = points & (under <= t1) & S.flatten(1).any(1, keepdim=True)
    return total
