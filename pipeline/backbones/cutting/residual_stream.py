"""The residual stream of a vision transformer: what each attention reads and adds to it, and what the network makes of its end.

B images, N tokens = prefix tokens + h * w, D numbers of a token, d of a head's, L blocks, C classes, P phrases.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pipeline.backbones import Backbone
from pipeline.backbones.cutting.attention import Recorded, whole
from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.graph import line
from pipeline.backbones.cutting.grid import MOST_PREFIX_TOKENS

ELSE = "use an open_clip ViT, or a plain ViT of timm"
_FOUND: WeakKeyDictionary = WeakKeyDictionary()


@dataclass(frozen=True)
class Block:
    """The attention of one block, as values of the graph.

    Attributes:
        q, k, v: what it mixes [B heads N d].
        x: the tokens it reads [B N D].
        mixed: softmax(q k' / sqrt(d)) v [B heads N d].
        branch: everything from there to what is added to the stream.
        stream: the stream before it is added [B N D].
        sum: and after.
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
class Stream:
    """A network whose residual stream can be read and continued.

    Attributes:
        module: the network as one program, x [B 3 H W] -> logits.
        blocks: first block first.
        last: the stream's end [B N D].
        after: everything from there to the logits.
        prefix: tokens before the grid's.
    """

    module: fx.GraphModule
    blocks: tuple[Block, ...]
    last: fx.Node
    after: tuple[fx.Node, ...]
    prefix: int


class Passed(fx.Interpreter):
    """One pass of images through a stream's network, of which what the last `depth` blocks mix is kept, and nothing else."""

    def __init__(self, stream: Stream, x: Tensor, depth: int) -> None:
        super().__init__(stream.module)
        self.stream, self.blocks, self.kept = stream, stream.blocks[-depth:], {}
        again = {node for block in self.blocks for node in block.branch} | set(stream.after)
        read = {node for block in self.blocks for node in (block.q, block.k, block.v, block.x, block.stream)}
        inputs = {source for node in again for source in node.all_input_nodes}
        self.wanted = read | (inputs - again - {stream.last} - {block.mixed for block in self.blocks})
        self.run(x)

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n in self.wanted:
            self.kept[n] = value
        return value

    def each(self, name: str) -> list[Tensor]:
        """One value of each block: q, k, v, x or stream."""
        return [self.kept[getattr(block, name)] for block in self.blocks]

    def added(self, block: int, mixed: Tensor) -> Tensor:
        """What a block adds to the stream [B N D] where its attention makes this [B heads N d]."""
        return self._again(self.blocks[block].mixed, mixed, self.blocks[block].branch)

    def said(self, tokens: Tensor) -> Tensor:
        """Logits [B N C + P] of each token [B N D] by itself: of an image that ends in that token everywhere."""
        images = tokens.flatten(0, 1)[:, None].expand(-1, self.stream.prefix + 1, -1)
        return self._again(self.stream.last, images, self.stream.after).unflatten(0, tokens.shape[:2])

    def _again(self, start: fx.Node, value: Tensor, nodes: Iterable[fx.Node]) -> Tensor:
        self.env = {**self.kept, start: value}
        for node in nodes:
            self.env[node] = value = super().run_node(node)
        return value


def streamed(backbone: Backbone) -> Stream | str:
    """The backbone with its residual stream in sight, or why it has none that could be followed; worked out once per network."""
    if backbone.cut not in _FOUND:
        _FOUND[backbone.cut] = _look_for(backbone)
    return _FOUND[backbone.cut]


@torch.no_grad()
def _look_for(backbone: Backbone) -> Stream | str:
    if not isinstance(backbone.cut, Cut):
        return f"it brings its own trunk and head, inside which no attention can be read; {ELSE}"
    x = backbone.prepare(torch.randint(0, 256, (1, 3, *backbone.image_size), dtype=torch.uint8).to(backbone.device))
    module = whole(backbone.cut)
    recorded = Recorded(module)
    logits = recorded.run(x)
    cells = math.prod(backbone.grid)
    found = [node for node in module.graph.nodes if node.target is F.scaled_dot_product_attention and _over(recorded.env[node], cells)]
    if not found:
        return f"this network has no block that attends over all of its {backbone.grid} grid at once; {ELSE}"
    prefix = recorded.env[found[-1]].shape[2] - cells
    try:
        blocks = tuple(_block(node, module) for node in found if recorded.env[node].shape[2] == cells + prefix)
        (last,) = (user for user in blocks[-1].sum.users if _is_sum(user))
        stream = Stream(module, blocks, last, _descending(module, last), prefix)
        # its blocks put together again are the network
        passed = Passed(stream, x, len(blocks))
        own = [passed.added(i, recorded.env[block.mixed]) + passed.kept[block.stream] for i, block in enumerate(blocks)]
        same = all(torch.allclose(sum_, recorded.env[block.sum], atol=1e-4) for sum_, block in zip(own, blocks, strict=True))
        if not same or passed.said(recorded.env[last]).shape != (1, cells + prefix, logits.shape[1]):
            return f"its attentions do not add up to its residual stream; {ELSE}"
    except Exception as error:  # blocks of another build
        return f"its blocks are not attention and MLP added to one stream ({line(error)}); {ELSE}"
    return stream


def _over(value: Tensor, cells: int) -> bool:
    return value.dim() == 4 and 0 <= value.shape[2] - cells <= MOST_PREFIX_TOKENS


def _is_sum(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", node.target) == "add" and len(node.all_input_nodes) == 2


def _block(mixed: fx.Node, module: fx.GraphModule) -> Block:
    q, k, v = mixed.args[:3]
    linear, branch, node = v, [], mixed
    while not (linear.target is F.linear or (linear.op == "call_module" and isinstance(module.get_submodule(linear.target), nn.Linear))):
        linear = linear.args[0]
    while True:
        (user,) = node.users
        if _is_sum(user):
            (stream,) = (source for source in user.all_input_nodes if source is not node)
            return Block(q, k, v, linear.args[0], mixed, tuple(branch), stream, user)
        branch.append(user)
        node = user


def _descending(module: fx.GraphModule, start: fx.Node) -> tuple[fx.Node, ...]:
    """What is computed from `start`, in order, up to the logits."""
    found = {start}
    for node in module.graph.nodes:
        if node.op != "output" and not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return tuple(node for node in module.graph.nodes if node in found - {start})
