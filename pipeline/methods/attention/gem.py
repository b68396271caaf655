"""GEM, the grounding everything module (Bousselham et al. 2024, section 3): patches of a stream in which tokens look at their like.

In each of the last blocks attention is replaced by self-self attention: queries, keys and values each attend to themselves, first to
gather like tokens, then to mix the values. What the blocks add up to, without their MLPs, is compared with the target patch by patch.
"""

import torch.nn.functional as F

from pipeline.families import Amount, Count, Whole, attention


@attention
def gem(q, k, v, x, stream, added, *, depth: Count = 6, iterations: Whole = 1, temperature: Amount = 0.0):
    """`depth` counts the last blocks (the released code's depth 7); temperature 0 is mean |x| / sqrt(d), image by image."""
    tokens = stream[-depth]
    for i in range(-depth, 0):
        tau = temperature or x[i].norm(dim=-1).mean(1)[:, None, None, None] * q[i].shape[-1] ** -0.5
        tokens = tokens + added(i, sum(_mix(t, v[i], tau, iterations) for t in (q[i], k[i], v[i])) / 3)
    return tokens


def _mix(t, v, tau, iterations):
    """Values mixed by how alike their tokens' t are [B heads N d], once like ones have been gathered `iterations` times."""
    for _ in range(iterations):
        t = F.normalize(t, dim=-1)
        t = (tau * t @ t.mT).softmax(-1) @ t
    t = F.normalize(t, dim=-1)
    return (tau * t @ t.mT).softmax(-1) @ v
