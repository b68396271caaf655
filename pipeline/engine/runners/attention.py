"""The attention family: how the class token attends to the grid, or where the tokens' stream ends, by the network's own program.

B images, N tokens, L blocks, C classes, P phrases, h w cells
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from pipeline.backbones import Backbone
from pipeline.backbones.cutting.attention import AttentionGraph, DoubleRecorder, attention_graph
from pipeline.backbones.cutting.relevance import relevances
from pipeline.backbones.cutting.residual_stream import ResidualStream, StreamPass, residual_stream
from pipeline.engine.batch import Batch, pixels_of
from pipeline.engine.budget import within_budget
from pipeline.engine.forward import autocast
from pipeline.engine.shapes import checked
from pipeline.families import METHODS, Attention
from pipeline.refusal import Refusal
from pipeline.spec.grammar import Choice

TOGETHER = 8  # images whose streams are kept at once
NUMBERS = 1 << 26  # of all attention matrices of one pass, at most: 12 images of a ViT-B/16 at 224 pixels
Network = TypeVar("Network", AttentionGraph, ResidualStream)


def misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method cannot explain this backbone, if it cannot."""
    if METHODS[method.name].streams:
        return _stream_misfit(method, backbone)
    network, start = attention_graph(backbone), method.args.get("start", 0)
    if isinstance(network, str):
        return network
    blocks = len(network.nodes) - 1
    if start >= blocks:
        return f"start is {start}; the network has {blocks} blocks, so it must be 0 to {blocks - 1}"
    return network.relevance_misfit if "RA" in METHODS[method.name].inputs else None


def _stream_misfit(method: Choice, backbone: Backbone) -> str | None:
    """Why a method that follows the stream cannot explain this backbone, if it cannot."""
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


def maps(method: Choice, batch: Batch, target: int) -> torch.Tensor:
    """The map [B h w] of one method for one target: the class token's row without the prefix tokens."""
    entry: Attention = METHODS[method.name]
    network: AttentionGraph | ResidualStream
    if entry.streams:
        network = _fitting(residual_stream(batch.backbone))
        rows = _compare(batch, _token_logits(entry, network, batch, method), _direction(method, batch, target))
    else:
        network = _fitting(attention_graph(batch.backbone))
        if entry.class_free:
            A = batch.cached("attention", lambda: _attention(network, batch, method.alias))
            rows = checked(entry.map(A, **method.args), A[0].shape[:2], what="shares of tokens")
        else:
            rows = _class_rows(entry, network, batch, _direction(method, batch, target), method)
    return rows[:, network.prefix :].unflatten(1, batch.backbone.grid)


def _fitting(network: Network | str) -> Network:
    """The network of a method that fits; `misfit` has turned reasons why not into refusals before."""
    assert not isinstance(network, str), network
    return network


def _direction(method: Choice, batch: Batch, target: int) -> torch.Tensor:
    """The direction [B C + P] of a target that has one.

    Raises:
        Refusal: where it has several.
    """
    directions = batch.targets[target].directions
    if directions.shape[1] != 1:
        raise Refusal(f"{method.alias} explains one direction a target; joins of several (max_pre, mean_post) are for the CAM family")
    return directions[:, 0]


def _in_parts(
    network: AttentionGraph | ResidualStream, batch: Batch, payer: str, kind: str, most: int, compute: Callable[[torch.Tensor, slice], Any]
) -> list:
    """`compute(prepared images, their slice of the batch)`, as many images at once as the budget of rows allows, and at most `most`."""
    network.module.to(batch.pixels.device)
    values, pixels = [], pixels_of(batch)

    def one_pass(start: int, stop: int) -> None:
        values.append(compute(batch.backbone.prepare.normalise(pixels[start:stop]), slice(start, stop)))

    within_budget(batch, len(pixels), one_pass, payer, kind, most=most)
    return values


@torch.no_grad()
def _token_logits(entry: Attention, network: ResidualStream, batch: Batch, method: Choice) -> torch.Tensor:
    """The logits of every token by itself [B N C + P], where the stream ends as the method has it; the same for all targets."""
    settings = method.args

    def read_out(x: torch.Tensor, part: slice) -> torch.Tensor:
        with autocast(x.device, batch.precision):
            passed = StreamPass(network, x, settings.get("depth", len(network.blocks)))
            offers = {name: passed.addition if name == "added" else passed.of_blocks(name) for name in entry.inputs}
            end = checked(entry.map(**offers, **settings), passed.of_blocks("stream")[0].shape, what="ends of the stream")
            logits = passed.token_logits(end).float()
        batch.tally[method.alias, "forwards"] += len(x)
        return logits

    def compute() -> torch.Tensor:
        return torch.cat(_in_parts(network, batch, method.alias, "forward", TOGETHER, read_out))

    return batch.cached(("stream", method.name, method.settings), compute)


def _compare(batch: Batch, logits: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """<d, y> of every token [B N], divided by the length of d's vector of features: the cosine, where the classes are texts."""
    backbone = batch.backbone
    rows = backbone.class_weights() if backbone.text is None else backbone.text
    return torch.einsum("bnc,bc->bn", logits, d) / (1.0 if rows is None else (d @ rows).norm(dim=1, keepdim=True))


@torch.no_grad()
def _attention(network: AttentionGraph, batch: Batch, payer: str) -> list[torch.Tensor]:
    """A_1 ... A_L, each averaged over its heads [B N N]: all that class-free methods use, and a head's share of the memory."""

    def average(x: torch.Tensor, part: slice) -> list[torch.Tensor]:
        with autocast(x.device, batch.precision):
            _, *matrices = network.module(x)
        batch.tally[payer, "forwards"] += len(x)
        return [A.float().mean(1) for A in matrices]

    parts = _in_parts(network, batch, payer, "forward", NUMBERS // network.numbers, average)
    return [torch.cat(block) for block in zip(*parts, strict=True)]


def _class_rows(entry: Attention, network: AttentionGraph, batch: Batch, d: torch.Tensor, method: Choice) -> torch.Tensor:
    """The class token's row [B N] by a method about a class."""

    def compute(x: torch.Tensor, part: slice) -> torch.Tensor:
        matrices = _matrices(entry, network, batch, x, d[part], method.alias)
        tokens = next(iter(matrices.values()))[0].shape[-1]
        return checked(entry.map(**matrices, **method.args), (len(x), tokens), what="shares of tokens").float()

    return torch.cat(_in_parts(network, batch, method.alias, "backward", NUMBERS // (2 * network.numbers), compute))


def _matrices(
    entry: Attention, network: AttentionGraph, batch: Batch, x: torch.Tensor, d: torch.Tensor, payer: str
) -> dict[str, list[torch.Tensor]]:
    """The inputs of a class-specific method, from one pass and a way back for each; in float64 whatever the run's precision.

    Relevance divides by sums that may all but cancel: in float32 the maps of a trained ViT-Tiny correlate with these at 0.3 at worst.
    """
    logits, *nodes = network.nodes
    recorded, d = DoubleRecorder(network.module, nodes[0]), d.double()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        y = recorded.run(x.double())[0]
    matrices = [recorded.env[node] for node in nodes]
    ways = {"dA": 1, "RA": 2 if (d < 0).any() else 1}  # relevance goes back as a gradient does, for evidence against a class apart
    offers: dict[str, Callable[[], list[torch.Tensor]]] = {
        "A": lambda: [A.detach().mean(1) for A in matrices],
        "dA": lambda: list(torch.autograd.grad((d * y).sum(), matrices)),
        "RA": lambda: _relevances(network, recorded.env, d),
    }
    batch.tally[payer, "forwards"] += len(x)
    batch.tally[payer, "backwards"] += len(x) * sum(ways.get(name, 0) for name in entry.inputs)
    return {name: offers[name]() for name in entry.inputs}


def _relevances(network: AttentionGraph, values: dict, d: torch.Tensor) -> list[torch.Tensor]:
    """R_1 ... R_L [B heads N N] for a direction d [B C].

    The rules set terms against each other by their totals, which cancel for a difference of classes. So the evidence for it and the
    evidence against it are propagated apart; for one class this is the one seed of the paper.
    """
    nodes = network.nodes[1:]
    evidence = relevances(network.module, values, d.clamp(min=0), nodes)
    if (d < 0).any():
        against = relevances(network.module, values, d.clamp(max=0).neg(), nodes)
        evidence = [R - other for R, other in zip(evidence, against, strict=True)]
    return evidence
