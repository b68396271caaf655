"""The place of the grid of cells inside a network's value.

B images, K channels, h w cells, N tokens = prefix tokens + h * w, H W pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_PREFIX_TOKENS = 8  # DINOv2 with registers has 5: a class token and four registers


@dataclass(frozen=True)
class GridFormat:
    """The dimensions of a value that holds a grid.

    Attributes:
        kind: `nchw` [B, K, h, w], `nhwc` [B, h, w, K] or `tokens` [B, prefix + h * w, K].
        channels: K.
        grid: (h, w).
        prefix: number of tokens before the grid's (class, distillation, registers).
        channels_last: order of an `nchw` value in memory, which decides the last bits of everything computed from it.
    """

    kind: str
    channels: int
    grid: tuple[int, int]
    prefix: int = 0
    channels_last: bool = False

    def to_map(self, value: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The value as A [B, K, h, w] and, where it has prefix tokens, those [B, prefix, K]."""
        if self.kind == "nchw":
            return value.contiguous(), ()
        if self.kind == "nhwc":
            return value.permute(0, 3, 1, 2).contiguous(), ()
        cells = value[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid).contiguous()
        return cells, (value[:, : self.prefix],) if self.prefix else ()

    def from_map(self, A: Tensor, prefix: tuple[Tensor, ...]) -> Tensor:
        """The inverse of `to_map`, to the bit and to the order in memory."""
        if self.kind == "nchw":
            return A.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)
        if self.kind == "nhwc":
            return A.permute(0, 2, 3, 1).contiguous()
        return torch.cat([*prefix, A.flatten(2).transpose(1, 2)], 1).contiguous()


def grid_format_of(
    dims: tuple[int, ...], channels_last: bool, image_size: tuple[int, int], prefix: int | None, axis: int | None = None
) -> GridFormat | None:
    """The format of a value with these `dims` for two images of (H, W) pixels; None where no grid shows.

    Parameters:
        prefix: the number of prefix tokens that the network itself states, tried before any other.
        axis: the axis of the channels, where it is known: it is none of the grid.
    """
    if dims[:1] != (2,):
        return None
    if len(dims) == 4:
        for kind, channels, grid in (("nchw", dims[1], (dims[2], dims[3])), ("nhwc", dims[3], (dims[1], dims[2]))):
            if _fits(grid, image_size) and axis in (None, kind.index("c")):
                return GridFormat(kind, channels, grid, channels_last=kind == "nchw" and channels_last)
    if len(dims) == 3 and axis != 1:
        for count in ([prefix] if prefix else []) + list(range(MOST_PREFIX_TOKENS + 1)):
            for h in range(2, dims[1] - count):
                grid = (h, (dims[1] - count) // h)
                if h * grid[1] == dims[1] - count and _fits(grid, image_size):
                    return GridFormat("tokens", dims[2], grid, count)
    return None


def _fits(grid: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """Whether a grid of more than one cell has the image's aspect, to less than one cell."""
    (h, w), (H, W) = grid, image_size
    return h * w > 1 and h <= H and w <= W and abs(h * W - w * H) < max(H, W)
