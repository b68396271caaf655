"""Where the grid of cells lies inside a network's value.

B images, K channels, h w cells, N tokens = prefix tokens + h * w, H W pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_PREFIX_TOKENS = 8  # DINOv2 with registers has 5: a class token and four registers


@dataclass(frozen=True)
class Layout:
    """How a value of the network holds a map.

    Attributes:
        kind: `nchw` [B, K, h, w], `nhwc` [B, h, w, K] or `tokens` [B, prefix + h * w, K].
        channels: K.
        grid: (h, w).
        prefix: tokens before the grid's (class, distillation, registers).
    """

    kind: str
    channels: int
    grid: tuple[int, int]
    prefix: int = 0

    def open(self, value: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The value as A [B, K, h, w] and, where it has prefix tokens, those [B, prefix, K]."""
        if self.kind == "nchw":
            return value.contiguous(), ()
        if self.kind == "nhwc":
            return value.permute(0, 3, 1, 2).contiguous(), ()
        cells = value[:, self.prefix:].transpose(1, 2).unflatten(2, self.grid).contiguous()
        return cells, (value[:, :self.prefix],) if self.prefix else ()

    def close(self, A: Tensor, prefix: tuple[Tensor, ...]) -> Tensor:
        """The inverse of `open`."""
        if self.kind == "nchw":
            return A
        if self.kind == "nhwc":
            return A.permute(0, 2, 3, 1).contiguous()
        return torch.cat([*prefix, A.flatten(2).transpose(1, 2)], 1).contiguous()


def find(dims: tuple[int, ...], image: tuple[int, int], prefix: int | None) -> Layout | None:
    """The layout of a value with these `dims` in a network that looks at an `image` of (H, W) pixels.

    `prefix` is the number of prefix tokens the network itself states, tried before any other. None where no grid shows.
    """
    if len(dims) == 4:
        for kind, channels, grid in (("nchw", dims[1], dims[2:]), ("nhwc", dims[3], dims[1:3])):
            if _fits(grid, image):
                return Layout(kind, channels, tuple(grid))
    if len(dims) == 3:
        for count in ([prefix] if prefix else []) + list(range(MOST_PREFIX_TOKENS + 1)):
            for h in range(2, dims[1] - count):
                grid = (h, (dims[1] - count) // h)
                if h * grid[1] == dims[1] - count and _fits(grid, image):
                    return Layout("tokens", dims[2], grid, count)
    return None


def _fits(grid: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether a grid of more than one cell has the image's aspect, to less than one cell."""
    (h, w), (H, W) = grid, image
    return h * w > 1 and h <= H and w <= W and abs(h * W - w * H) < max(H, W)
