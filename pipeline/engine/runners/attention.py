"""The attention family: how the class token attends to the grid, or where the tokens' stream ends, by the network's own program.

B images, N tokens, L blocks, C classes, P phrases, h w cells
"""

from collections.abc import Callable
from typing import Any

import torch

from pipeline.backbones import Backbone
from pipeline.backbones.cutting.attention import AttentionGraph, DoubleRecorder, attention_graph
from pipeline.backbones.cutting.relevance import relevances
from pipeline.backbones.cutting.residual_stream import ResidualStream, StreamPass, residual_stream
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.budget import within_budget
from pipeline.engine.forward import autocast
from pipeline.families import METHODS, Attention
from pipeline.refusal import Refusal
from pipeline.spec.grammar import Choice

TOGETHER = 8  # images whose streams are kept at once
NUMBERS = 1 << 26  # of all attention matrices of one pass, at most: 12 images of a ViT-B/16 at 224 pixels


def misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone, if it cannot."""
    if METHODS[method.name].streams:
        return _unstreamed(method, backbone)
    network, start = attention_graph(backbone), method.args.get("start", 0)
    if isinstance(network, str):
        return network
    blocks = len(network.nodes) - 1
    if start >= blocks:
        return f"start is {start}; the network has {blocks} blocks, so it must be 0 to {blocks - 1}"
    return network.relevance_misfit if "RA" in METHODS[method.name].asks else None


def _unstreamed(method: Choice, backbone: Backbone) -> str | None:
    """The same of a method that follows the stream."""
    network, least = residual_stream(backbone), {"depth": 1, "iterations": 0, "temperature": 0}
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


def maps(method: Choice, scene: Batch, target: int) -> torch.Tensor:
    """The map [B h w] of one method for one target: the class token's row without the prefix tokens."""
    entry: Attention = METHODS[method.name]
    network = residual_stream(scene.backbone) if entry.streams else attention_graph(scene.backbone)
    if entry.class_free:
        rows = entry.map(scene.once("attention", lambda: _attention(network, scene, method.alias)), **method.args)
    else:
        directions = scene.targets[target].directions
        if directions.shape[1] != 1:
            raise Refusal(f"{method.alias} explains one direction a target; joins of several (max_pre, mean_post) are for the CAM family")
        if entry.streams:
            key = ("stream", method.name, method.settings)
            rows = _compared(scene.backbone, scene.once(key, lambda: _said(entry, network, scene, method)), directions[:, 0])
        else:

            def mapped(x: torch.Tensor, part: slice) -> torch.Tensor:
                return entry.map(**_offered(entry, network, scene, x, directions[part, 0], method.alias), **method.args).float()

            rows = torch.cat(_in_parts(network, scene, method.alias, "backward", NUMBERS // (2 * network.numbers), mapped))
    return rows[:, network.prefix :].unflatten(1, scene.backbone.grid)


def _in_parts(
    network: AttentionGraph | ResidualStream, scene: Batch, payer: str, kind: str, most: int, answer: Callable[[torch.Tensor, slice], Any]
) -> list:
    """`answer(prepared images, their place)`, as many images at once as the budget of rows allows, and at most `most`."""
    network.module.to(scene.pixels.device)
    answers, pixels = [], pixels_of(scene)

    def one_pass(start: int, stop: int) -> None:
        answers.append(answer(scene.backbone.prepare.normalise(pixels[start:stop]), slice(start, stop)))

    within_budget(scene, len(pixels), one_pass, payer, kind, most=most)
    return answers


@torch.no_grad()
def _said(entry: Attention, network: ResidualStream, scene: Batch, method: Choice) -> torch.Tensor:
    """What the network says of every token by itself [B N C + P], where the stream ends as the method has it; the same for all targets."""
    settings = method.args

    def said(x: torch.Tensor, part: slice) -> torch.Tensor:
        with autocast(x.device, scene.precision):
            passed = StreamPass(network, x, settings.get("depth", len(network.blocks)))
            offered = {"added": passed.addition, **{name: passed.of_blocks(name) for name in entry.asks - {"added"}}}
            found = passed.token_logits(entry.map(**offered, **settings)).float()
        scene.tally[method.alias, "forwards"] += len(x)
        return found

    return torch.cat(_in_parts(network, scene, method.alias, "forward", TOGETHER, said))


def _compared(backbone: Backbone, said: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """<d, y> of every token [B N] over the length of what d looks for: the cosine, where the classes are texts."""
    rows = backbone.class_weights() if backbone.text is None else backbone.text
    return torch.einsum("bnc,bc->bn", said, d) / (1.0 if rows is None else (d @ rows).norm(dim=1, keepdim=True))


@torch.no_grad()
def _attention(network: AttentionGraph, scene: Batch, payer: str) -> list[torch.Tensor]:
    """A_1 ... A_L, each averaged over its heads [B N N]: all that class-free methods use, and a head's share of the memory."""

    def averaged(x: torch.Tensor, part: slice) -> list[torch.Tensor]:
        with autocast(x.device, scene.precision):
            _, *matrices = network.module(x)
        scene.tally[payer, "forwards"] += len(x)
        return [A.float().mean(1) for A in matrices]

    return [
        torch.cat(block) for block in zip(*_in_parts(network, scene, payer, "forward", NUMBERS // network.numbers, averaged), strict=True)
    ]


def _offered(
    entry: Attention, network: AttentionGraph, scene: Batch, x: torch.Tensor, d: torch.Tensor, payer: str
) -> dict[str, list[torch.Tensor]]:
    """What a class-specific method asks for, from one pass and a way back for each; in float64 whatever the precision asked for.

    Relevance divides by sums that may all but cancel: in float32 the maps of a trained ViT-Tiny correlate with these at 0.3 at worst.
    """
    logits, *nodes = network.nodes
    recorded, d = DoubleRecorder(network.module, nodes[0]), d.double()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        y = recorded.run(x.double())[0]
    matrices = [recorded.env[node] for node in nodes]
    ways = {"dA": 1, "RA": 2 if (d < 0).any() else 1}  # relevance goes back as a gradient does, for what speaks against a class apart
    offered = {
        "A": lambda: [A.detach().mean(1) for A in matrices],
        "dA": lambda: list(torch.autograd.grad((d * y).sum(), matrices)),
        "RA": lambda: _relevances(network, recorded.env, d),
    }
    scene.tally[payer, "forwards"] += len(x)
    scene.tally[payer, "backwards"] += len(x) * sum(ways.get(name, 0) for name in entry.asks)
    return {name: offered[name]() for name in entry.asks}


def _relevances(network: AttentionGraph, values: dict, d: torch.Tensor) -> list[torch.Tensor]:
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
