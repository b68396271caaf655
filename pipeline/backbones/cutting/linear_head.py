"""The linear map of a head that is global average pooling and a linear map, and that of a classifier: measured, not assumed.

B images, K channels, h w cells, C classes, D features.
"""

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 64
SCALE = 1024.0  # a power of two: the constant maps below stay exact, and the bias is small beside them


@torch.no_grad()
def pooled_linear(head: Callable[[Tensor, tuple[Tensor, ...]], Tensor], A: Tensor, rest: tuple[Tensor, ...]) -> Tensor | None:
    """W [C, K] if logits = W mean(A) + a part that A does not enter, for every A; None otherwise.

    Then the gradient of <d, y> is (d @ W) / (h * w) in every cell of every image.

    Parameters:
        A, rest: the trunk's output for two images [2, K, h, w].
    """
    draws = torch.Generator().manual_seed(0)

    def probe(scale: float) -> Tensor:
        return scale * (torch.randn(A.shape, generator=draws).to(A) - 0.3)

    zero, X, Z = head(torch.zeros_like(A), rest), probe(3), probe(3)
    change = head(X, rest) - zero
    if not change.any() or not _same(head(X + Z, rest) - head(Z, rest), change, change):
        return None  # cheap, and true of every head but the linear ones; a classifier that is zero tells nothing
    W = _columns(head, A, rest)
    matches = (_same(head(P, rest) - zero, P.mean((2, 3)) @ W.T, P.abs().mean((2, 3)) @ W.abs().T) for P in (X, probe(30), A))
    return W if all(matches) else None


def _columns(head: Callable, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
    """W [C, K], column k from maps that are constant in channel k and zero elsewhere."""
    columns = []
    for channels in torch.arange(A.shape[1], device=A.device).split(CHUNK):
        maps = torch.zeros(len(channels), *A.shape[1:], dtype=A.dtype, device=A.device)
        maps[torch.arange(len(channels)), channels] = SCALE
        same = tuple(other[:1].expand(len(channels), *other.shape[1:]) for other in rest)
        columns.append((head(maps, same) - head(-maps, same)).T / (2 * SCALE))
    return torch.cat(columns, 1)


def _same(actual: Tensor, expected: Tensor, size: Tensor) -> bool:
    """Equal to float32's rounding of sums of this size; the error of a nonlinear head is far larger."""
    return bool(((actual - expected).abs() <= 1e-4 * size.abs().max() + 1e-30).all())


def feature_to_logits(parts: Callable, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor | None:
    """The derivative [C, D] of the logits by the feature of one image [1, K, h, w]: the classifier's rows, since logits are affine in it.

    None where the logits are not computed from the feature.

    Parameters:
        parts: A, rest -> logits [1, C] and the pieces of the feature, [1, D] or [1, D, 1, 1] each.
    """
    with torch.enable_grad():
        logits, pieces = parts(A.detach().requires_grad_(), rest)
        if not pieces or not all(piece.requires_grad for piece in pieces):
            return None
        directions = torch.eye(logits.shape[1], device=A.device)[:, None]
        rows = torch.autograd.grad(logits, pieces, directions, is_grads_batched=True, allow_unused=True)
    return None if any(row is None for row in rows) else torch.cat([row.flatten(1) for row in rows], 1)
