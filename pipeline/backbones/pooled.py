"""Is a head global average pooling and a linear map? Which linear map ends it? Found by asking it, not assumed.

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
        A, rest: what the trunk made of two images [2, K, h, w].
    """
    draws = torch.Generator().manual_seed(0)
    zero = head(torch.zeros_like(A), rest)

    def probes() -> Tensor:
        return 3 * torch.randn(A.shape, generator=draws).to(A) - 1

    X = probes()
    if not _same(head(X, rest) + head(-X, rest), 2 * zero, head(X, rest) - zero):
        return None  # cheap, and true of every network but the pooled linear ones
    W = _columns(head, A, rest)
    for X in (X, 10 * probes(), A):
        if not _same(head(X, rest) - zero, X.mean((2, 3)) @ W.T, X.abs().mean((2, 3)) @ W.abs().T):
            return None
    return W


def _columns(head: Callable, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
    """W [C, K], column k from maps that are constant in channel k and zero elsewhere."""
    columns = []
    for chosen in torch.arange(A.shape[1], device=A.device).split(CHUNK):
        maps = torch.zeros(len(chosen), *A.shape[1:], dtype=A.dtype, device=A.device)
        maps[torch.arange(len(chosen)), chosen] = SCALE
        same = tuple(other[:1].expand(len(chosen), *other.shape[1:]) for other in rest)
        columns.append((head(maps, same) - head(-maps, same)).T / (2 * SCALE))
    return torch.cat(columns, 1)


def _same(found: Tensor, expected: Tensor, size: Tensor) -> bool:
    """Equal to float32's rounding of sums of this size; what is not linear is off by far more."""
    return bool(((found - expected).abs() <= 1e-4 * size.abs().max() + 1e-30).all())


def feature_to_logits(readout: Callable, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor | None:
    """The derivative [C, D] of the logits by the feature of one image [1, K, h, w]: the classifier's rows, since logits are affine in it.

    None where the logits are not computed from the feature.
    """
    with torch.enable_grad():
        logits, feature = readout(A.detach().requires_grad_(), rest)
        if feature is logits or not feature.requires_grad:
            return None
        rows = [torch.autograd.grad(y, feature, retain_graph=True, allow_unused=True)[0] for y in logits[0]]
    return None if rows[0] is None else torch.cat(rows)
