"""The attention family in double precision, one image at a time, written from the papers' formulas."""

import math

import numpy as np
import torch


def softmaxes(network, x):
    """A_1 ... A_L [B heads N N] in float64, caught by hooks in the network, which from then on does not fuse its attention."""
    network, found = network.double(), []
    for block in network.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, given, value: found.append(value))
    network(x.double())
    return [A.detach().numpy() for A in found]


def grid(row, backbone):
    return row[-math.prod(backbone.grid) :].reshape(backbone.grid)


def raw_attention(last):
    """How the class token of the last block [heads N N] attends [N]."""
    return sum(head[0] for head in last) / len(last)


def rollout(blocks, start=0):
    """The class token's row [N] of the product of one image's blocks, [heads N N] each."""
    product = np.eye(blocks[0].shape[1])
    for A in blocks[start:]:
        mixed = np.eye(A.shape[1]) + A.mean(0)
        product = (mixed / mixed.sum(1, keepdims=True)) @ product
    return product[0]


def share(contributions, R, over):
    """What each contribution gets of R, by its part in the sum of all that make one output."""
    total = contributions.sum(over, keepdim=True)
    return contributions / torch.where(total == 0, 1.0, total) * R.unsqueeze(over)


def through_linear(x, layer, R):
    if x.dim() > 1:  # token by token: all at once would be gigabytes of a real network
        return torch.stack([through_linear(one, layer, r) for one, r in zip(x, R, strict=True)])
    return share((x * layer.weight).relu(), R, -1).sum(0)


def through_sum(x, y, R):
    a, b = x / (x + y) * R, y / (x + y) * R
    whole = a.sum().abs() + b.sum().abs()
    return a * (a.sum().abs() / whole * R.sum() / a.sum()), b * (b.sum().abs() / whole * R.sum() / b.sum())


class Block:
    """One block of a timm ViT for one image [N D], written out, and its relevance in reverse."""

    def __init__(self, block, x):
        self.block, self.x, heads = block, x, block.attn.num_heads
        ls1, ls2 = (getattr(block.ls1, "gamma", 1.0), getattr(block.ls2, "gamma", 1.0))
        self.normed = block.norm1(x)
        q, k, self.v = block.attn.qkv(self.normed).reshape(len(x), 3, heads, -1).permute(1, 2, 0, 3)
        self.q, self.k = block.attn.q_norm(q), block.attn.k_norm(k)
        self.A = (self.q @ self.k.transpose(1, 2) / math.sqrt(q.shape[2])).softmax(2)
        self.joined = (self.A @ self.v).transpose(0, 1).flatten(1)
        self.attended = ls1 * block.attn.proj(self.joined)
        self.middle = x + self.attended
        self.normed2 = block.norm2(self.middle)
        self.hidden = block.mlp.fc1(self.normed2)
        self.active = block.mlp.act(self.hidden)
        self.mixed = ls2 * block.mlp.fc2(self.active)
        self.out = self.middle + self.mixed

    def relevance(self, R):
        """R of the output -> R of the attention, R of the input."""
        kept, branch = through_sum(self.middle, self.mixed, R)
        branch = through_linear(self.active, self.block.mlp.fc2, branch)
        kept, branch = through_sum(self.x, self.attended, kept + through_linear(self.normed2, self.block.mlp.fc1, branch))
        R = through_linear(self.joined, self.block.attn.proj, branch).unflatten(1, self.v.shape[::2]).transpose(0, 1)
        parts = share(self.A[..., None] * self.v[:, None], R, 2) / 2  # heads, queries, keys, channels
        RA, Rv = parts.sum(3), parts.sum(1)
        parts = share(self.q[:, :, None] * self.k[:, None], RA, 3) / 2
        Rq, Rk = parts.sum(2), parts.sum(1)
        R = torch.stack([Rq, Rk, Rv]).permute(2, 0, 1, 3).flatten(1)
        return RA, kept + through_linear(self.normed, self.block.attn.qkv, R)


def reference(network, x, d):
    """Gradient and relevance of every block's attention for one image [1 3 H W] and one direction [C], in float64."""
    tokens = network.norm_pre(network._pos_embed(network.patch_embed(x)))[0].detach().requires_grad_()
    blocks = [Block(network.blocks[0], tokens)]
    for block in network.blocks[1:]:
        blocks.append(Block(block, blocks[-1].out))
    tokens = network.norm(blocks[-1].out)
    heads = [network.head, network.head_dist] if hasattr(network, "head_dist") else [network.head]
    y = [head(tokens[i]) for i, head in enumerate(heads)]
    gradients = torch.autograd.grad((d * sum(y) / len(y)).sum(), [block.A for block in blocks])
    with torch.no_grad():
        R = torch.zeros_like(tokens)
        answers = through_sum(*y, d) if len(y) == 2 else [d]
        for i, (head, answer) in enumerate(zip(heads, answers, strict=True)):
            R[i] = through_linear(tokens[i], head, answer)
        found = []
        for block in reversed(blocks):
            RA, R = block.relevance(R)
            found.insert(0, RA)
    return gradients, found


def tibav(network, x, directions, start=0):
    network, rows = network.double(), []
    for one, d in zip(x.double().split(1), directions.double(), strict=True):
        gradients, forth = reference(network, one, d.clamp(min=0))
        more, back = reference(network, one, (-d).clamp(min=0))
        product = np.eye(gradients[0].shape[1])
        for b in range(start, len(gradients)):
            positive = ((gradients[b] - more[b]) * (forth[b] - torch.nan_to_num(back[b]))).clamp(min=0).mean(0)
            product = (np.eye(len(product)) + positive.numpy()) @ product
        rows.append(product[0])
    return rows
