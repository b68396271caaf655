"""The attention family: how the class token attends to the grid, or where the tokens' stream ends, by the network's own program.

B images, N tokens, L blocks, C classes, P phrases, h w cells
"""

from collections.abc import Iterator

import torch

from pipeline.backbones import Backbone
from pipeline.backbones.attention import Attentive, Recorded, attentive
from pipeline.backbones.relevance import relevances
from pipeline.backbones.stream import Passed, Stream, streamed
from pipeline.engine.look import autocast
from pipeline.engine.scene import Scene, pixels_of
from pipeline.families import METHODS, Attention
from pipeline.refusal import Refusal
from pipeline.requests import Request

TOGETHER = 8  # images whose streams are kept at once
BUDGET = 1 << 26  # numbers of all attention matrices of one pass: 12 images of a ViT-B/16 at 224 pixels


def misfit(method: Request, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone, if it cannot."""
    if METHODS[method.name].streams:
        return _unstreamed(method, backbone)
    network, start = attentive(backbone), method.args.get("start", 0)
    if isinstance(network, str):
        return network
    blocks = len(network.nodes) - 1
    if not 0 <= start < blocks:
        return f"start is {start}; the network has {blocks} blocks, so it must be 0 to {blocks - 1}"
    return network.unruled if "RA" in METHODS[method.name].asks else None


def _unstreamed(method: Request, backbone: Backbone) -> str | None:
    """The same of a method that follows the stream."""
    network, least = streamed(backbone), {"depth": 1, "iterations": 0, "temperature": 0}
    if isinstance(network, str):
        return network
    low = next((name for name, value in least.items() if method.args.get(name, value) < value), None)
    if low:
        return f"{low} is {method.args[low]}; it must be at least {least[low]}"
    if method.args.get("depth", 1) > len(network.blocks):
        blocks = len(network.blocks)
        return (
            f"depth is {method.args['depth']}; the network has {blocks} blocks, so it must be 1 to {blocks}: {method.alias}.depth={blocks}"
        )
    return None


def maps(method: Request, scene: Scene, target: int) -> torch.Tensor:
    """The map [B h w] of one method for one target: the class token's row without the prefix tokens."""
    entry: Attention = METHODS[method.name]
    network = streamed(scene.backbone) if entry.streams else attentive(scene.backbone)
    if entry.class_free:
        rows = entry.map(scene.once("attention", lambda: _attention(network, scene)), **method.args)
    else:
        directions = scene.targets[target].directions
        if directions.shape[1] != 1:
            raise Refusal(f"{method.alias} explains one direction a target; joins of several (max_pre, mean_post) are for the CAM family")
        if entry.streams:
            said = scene.once(("stream", method.name, method.settings), lambda: _said(entry, network, scene, method.args))
            rows = _compared(scene.backbone, said, directions[:, 0])
        else:
            parts = _parts(network, scene, directions[:, 0])
            rows = torch.cat([entry.map(**_offered(entry, network, scene, x, d), **method.args) for x, d in parts])
    return rows[:, network.prefix :].unflatten(1, scene.backbone.grid)


def _parts(network: Attentive, scene: Scene, directions: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Prepared images and their directions, as many at once as the budget of attention matrices allows."""
    size = max(1, BUDGET // network.numbers)
    network.module.to(scene.pixels.device)
    for pixels, d in zip(pixels_of(scene).split(size), directions.split(size), strict=True):
        yield scene.backbone.prepare.normalise(pixels), d


@torch.no_grad()
def _said(entry: Attention, network: Stream, scene: Scene, settings: dict) -> torch.Tensor:
    """What the network says of every token by itself [B N C + P], where the stream ends as the method has it; the same for all targets."""
    network.module.to(scene.pixels.device)
    found = []
    for pixels in pixels_of(scene).split(TOGETHER):
        with autocast(pixels.device, scene.precision):
            passed = Passed(network, scene.backbone.prepare.normalise(pixels), settings.get("depth", len(network.blocks)))
            offered = {"added": passed.added, **{name: passed.each(name) for name in entry.asks - {"added"}}}
            found.append(passed.said(entry.map(**offered, **settings)).float())
    return torch.cat(found)


def _compared(backbone: Backbone, said: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """<d, y> of every token [B N] over the length of what d looks for: the cosine, where the classes are texts."""
    rows = backbone.class_weights() if backbone.text is None else backbone.text
    return torch.einsum("bnc,bc->bn", said, d) / (1.0 if rows is None else (d @ rows).norm(dim=1, keepdim=True))


@torch.no_grad()
def _attention(network: Attentive, scene: Scene) -> list[torch.Tensor]:
    """A_1 ... A_L, each averaged over its heads [B N N]: all that class-free methods use, and a head's share of the memory."""
    parts = []
    for x, _ in _parts(network, scene, scene.look.logits):
        with autocast(x.device, scene.precision):
            _, *matrices = network.module(x)
        parts.append([A.float().mean(1) for A in matrices])
    return [torch.cat(block) for block in zip(*parts, strict=True)]


def _offered(entry: Attention, network: Attentive, scene: Scene, x: torch.Tensor, d: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """What a class-specific method asks for, from one pass and one backward, in float32 whatever the precision asked for.

    Relevance divides by sums that may all but cancel: in bfloat16 the maps of a ViT-Tiny correlate at 0.6 with those of float32.
    """
    logits, *nodes = network.nodes
    recorded = Recorded(network.module, nodes[0])
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        y = recorded.run(x)[0]
    matrices = [recorded.env[node] for node in nodes]
    offered = {
        "A": lambda: [A.detach().mean(1) for A in matrices],
        "dA": lambda: list(torch.autograd.grad((d * y).sum(), matrices)),
        "RA": lambda: _relevances(network, recorded.env, d),
    }
    return {name: offered[name]() for name in entry.asks}


def _relevances(network: Attentive, values: dict, d: torch.Tensor) -> list[torch.Tensor]:
    """R_1 ... R_L [B heads N N] for a direction d [B C].

    The rules set terms against each other by their totals, which cancel for a difference of classes. So what speaks for it and what
    speaks against it are propagated apart; for one class this is the one seed of the paper.
    """
    nodes = network.nodes[1:]
    found = relevances(network.module, values, d.clamp(min=0), nodes)
    if (d < 0).any():
        against = relevances(network.module, values, d.clamp(max=0).neg(), nodes)
        found = [R - other for R, other in zip(found, against, strict=True)]
    return found
