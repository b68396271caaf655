"""The residual stream of a vision transformer: the input and output of each attention on it, and the logits of its end.

B images, N tokens = prefix tokens + h * w, D numbers of a token, d of a head's, L blocks, C classes, P phrases.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pipeline.backbones import Backbone
from pipeline.backbones.cutting.attention import ValueRecorder, whole_graph
from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.graph import descendants, first_line, module_of, operation, source
from pipeline.backbones.cutting.grid_format import MOST_PREFIX_TOKENS
from pipeline.backbones.cutting.own_cut import OwnCut

ELSE = "use an open_clip ViT, or a plain ViT of timm"
_CACHE: WeakKeyDictionary[Cut | OwnCut, "ResidualStream | str"] = WeakKeyDictionary()


@dataclass(frozen=True)
class Block:
    """The attention of one block, as values of the graph.

    Attributes:
        q, k, v: queries, keys and values [B heads N d].
        x: the tokens it reads [B N D].
        mixed: softmax(q k' / sqrt(d)) v [B heads N d].
        branch: the values from there to the block's addition to the stream.
        stream: the stream before the addition [B N D].
        sum: the stream after the addition [B N D].
    """

    q: fx.Node
    k: fx.Node
    v: fx.Node
    x: fx.Node
    mixed: fx.Node
    branch: tuple[fx.Node, ...]
    stream: fx.Node
    sum: fx.Node


@dataclass(frozen=True)
class ResidualStream:
    """A network whose residual stream can be read and continued.

    Attributes:
        module: the network as one program, x [B 3 H W] -> logits.
        blocks: first block first.
        last: the stream's end [B N D].
        after: the values from there to the logits.
        prefix: number of tokens before the grid's.
    """

    module: fx.GraphModule
    blocks: tuple[Block, ...]
    last: fx.Node
    after: tuple[fx.Node, ...]
    prefix: int


class StreamPass(fx.Interpreter):
    """One pass of images through a stream's network, which keeps the inputs of the last `depth` attentions and nothing else."""

    def __init__(self, stream: ResidualStream, x: Tensor, depth: int) -> None:
        super().__init__(stream.module)
        self.stream, self.blocks = stream, stream.blocks[-depth:]
        self.values: dict[fx.Node, Tensor] = {}
        again = {node for block in self.blocks for node in block.branch} | set(stream.after)
        read = {node for block in self.blocks for node in (block.q, block.k, block.v, block.x, block.stream)}
        inputs = {node for user in again for node in user.all_input_nodes}
        self.needed = read | (inputs - again - {stream.last} - {block.mixed for block in self.blocks})
        self.run(x)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.needed:
            self.values[n] = value
        return value

    def of_blocks(self, name: str) -> list[Tensor]:
        """One value of each block: q, k, v, x or stream."""
        return [self.values[getattr(block, name)] for block in self.blocks]

    def addition(self, block: int, mixed: Tensor) -> Tensor:
        """The addition of a block to the stream [B N D] from the output of its attention [B heads N d]."""
        return self._run_again(self.blocks[block].mixed, mixed, self.blocks[block].branch)

    def token_logits(self, tokens: Tensor) -> Tensor:
        """Logits [B N C + P] of each token [B N D] by itself: of an image that ends in that token everywhere."""
        images = tokens.flatten(0, 1)[:, None].expand(-1, self.stream.prefix + 1, -1)
        return self._run_again(self.stream.last, images, self.stream.after).unflatten(0, tokens.shape[:2])

    def _run_again(self, start: fx.Node, value: Tensor, nodes: Iterable[fx.Node]) -> Tensor:
        self.env = {**self.values, start: value}
        for node in nodes:
            self.env[node] = value = super().run_node(node)
        return value


def residual_stream(backbone: Backbone) -> ResidualStream | str:
    """The backbone with its residual stream in sight, or the reason why it cannot be followed; made once per network."""
    if backbone.cut not in _CACHE:
        _CACHE[backbone.cut] = _residual_stream(backbone)
    return _CACHE[backbone.cut]


@torch.no_grad()
def _residual_stream(backbone: Backbone) -> ResidualStream | str:
    if not isinstance(backbone.cut, Cut):
        return f"it brings its own trunk and head, inside which no attention can be read; {ELSE}"
    pixels = torch.randint(0, 256, (1, 3, *backbone.image_size), dtype=torch.uint8)
    x, cells = backbone.prepare(pixels.to(backbone.device)), math.prod(backbone.grid)
    module = whole_graph(backbone.cut)
    recorder = ValueRecorder(module)
    logits, values = recorder.run(x), recorder.env
    attentions = [node for node in module.graph.nodes if node.target is F.scaled_dot_product_attention and _over(values[node], cells)]
    if not attentions:
        return f"this network has no block that attends over all of its {backbone.grid} grid at once; {ELSE}"
    tokens = values[attentions[-1]].shape[2]
    try:
        blocks = tuple(_block(node, module) for node in attentions if values[node].shape[2] == tokens)
        (last,) = (user for user in blocks[-1].sum.users if _is_sum(user))
        behind = descendants(module.graph.nodes, [last]) - {last, module.graph.output_node()}
        stream = ResidualStream(module, blocks, last, tuple(node for node in module.graph.nodes if node in behind), tokens - cells)
        # its blocks put together again are the network
        again = StreamPass(stream, x, len(blocks))
        sums = [again.addition(i, values[block.mixed]) + again.values[block.stream] for i, block in enumerate(blocks)]
        same = all(torch.allclose(total, values[block.sum], atol=1e-4) for total, block in zip(sums, blocks, strict=True))
        if not same or again.token_logits(values[last]).shape != (1, tokens, logits.shape[1]):
            return f"its attentions do not add up to its residual stream; {ELSE}"
    except Exception as error:  # blocks of another build
        return f"its blocks are not attention and MLP added to one stream ({first_line(error)}); {ELSE}"
    return stream


def _over(value: Tensor, cells: int) -> bool:
    return value.dim() == 4 and 0 <= value.shape[2] - cells <= MOST_PREFIX_TOKENS


def _is_sum(node: fx.Node) -> bool:
    return operation(node) == "add" and len(node.all_input_nodes) == 2


def _is_linear(node: fx.Node, module: fx.GraphModule) -> bool:
    return node.target is F.linear or isinstance(module_of(module, node), nn.Linear)


def _block(mixed: fx.Node, module: fx.GraphModule) -> Block:
    """The block of an attention: back from its values to the linear layer that makes them, and on to the sum with the stream."""
    q, k, v = (source(mixed, position) for position in range(3))
    linear, node = v, mixed
    branch: list[fx.Node] = []
    while not _is_linear(linear, module):
        linear = source(linear)
    while True:
        (user,) = node.users
        if _is_sum(user):
            (stream,) = (other for other in user.all_input_nodes if other is not node)
            return Block(q, k, v, source(linear), mixed, tuple(branch), stream, user)
        branch.append(user)
        node = user
