"""A network as one graph in which every attention matrix of its class token can be read. Found and written out, never hooked.

B images, N tokens = prefix tokens + h * w, C classes, L blocks.
"""

import copy
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pipeline.backbones import Backbone
from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.graph import line
from pipeline.backbones.cutting.grid import MOST_PREFIX_TOKENS
from pipeline.backbones.cutting.relevance import relevances

ELSE = "use a ViT, DeiT or DINOv2 that classifies by its class token, or a method of the CAM family"
_FOUND: WeakKeyDictionary = WeakKeyDictionary()


@dataclass(frozen=True)
class Attentive:
    """A network whose attention can be read.

    Attributes:
        module: the network's own modules as one program, x [B 3 H W] -> (logits [B C], A_1 [B heads N N], ..., A_L).
        prefix: tokens before the grid's; the first of them is the class token.
        numbers: how many numbers the attention matrices of one image hold.
        unruled: why relevance cannot be propagated through it, if it cannot.
    """

    module: fx.GraphModule
    prefix: int
    numbers: int
    unruled: str | None

    @property
    def nodes(self) -> list[fx.Node]:
        """The logits and A_1 ... A_L as values of the graph."""
        return list(self.module.graph.output_node().args[0])


class Recorded(fx.Interpreter):
    """One pass that keeps every value; the gradient reaches back to `first` and no further."""

    def __init__(self, module: fx.GraphModule, first: fx.Node | None = None) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.first = first

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        return value.detach().requires_grad_() if n is self.first else value


class Exact(Recorded):
    """The same in double precision, for x in double precision: parameters are widened as they are met, and none is kept so."""

    def call_module(self, target: str, args: tuple, kwargs: dict) -> object:
        module = self.fetch_attr(target)
        wide = {name: _widened(value) for name, value in (*module.named_parameters(), *module.named_buffers())}
        return torch.func.functional_call(module, wide, args, kwargs)

    def get_attr(self, target: str, args: tuple, kwargs: dict) -> object:
        return _widened(super().get_attr(target, args, kwargs))

    def call_method(self, target: str, args: tuple, kwargs: dict) -> object:
        return args[0] if target == "float" else super().call_method(target, args, kwargs)


def _widened(value: object) -> object:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def attentive(backbone: Backbone) -> Attentive | str:
    """The backbone with its attention in sight, or why it has none that could be followed; worked out once per network."""
    if backbone.cut not in _FOUND:
        _FOUND[backbone.cut] = _look_for(backbone)
    return _FOUND[backbone.cut]


def _look_for(backbone: Backbone) -> Attentive | str:
    if not isinstance(backbone.cut, Cut):
        return f"it brings its own trunk and head, inside which no attention can be read; {ELSE}"
    draws = torch.Generator().manual_seed(0)
    x = backbone.prepare(torch.randint(0, 256, (1, 3, *backbone.image_size), dtype=torch.uint8, generator=draws).to(backbone.device))
    try:
        module = _written_out(whole(backbone.cut))
        values = _values(module, x)
    except Exception as error:  # an attention called in a way that is not known here
        return f"its attention cannot be written out ({line(error)}); {ELSE}"
    matrices = _matrices(module.graph, values, backbone.grid[0] * backbone.grid[1])
    if not matrices:
        return f"this network has no class token attention: no block attends over a class token and its {backbone.grid} grid; {ELSE}"
    logits = module.graph.output_node().args[0]
    if not torch.allclose(values[logits], backbone.logits(x), atol=1e-4, rtol=1e-4):
        return f"its attention, written out as softmax(q k') v, does not give the network's own logits; {ELSE}"
    module.graph.output_node().args = ((logits, *matrices),)
    module.recompile()
    prefix = values[matrices[0]].shape[-1] - backbone.grid[0] * backbone.grid[1]
    reached, unruled = _tried(module, x)
    if not reached:
        return f"its classifier does not read the class token, so the class token's attention says nothing of its answer; {ELSE}"
    return Attentive(module, prefix, sum(values[node].numel() for node in matrices), unruled)


def whole(cut: Cut) -> fx.GraphModule:
    """Both halves of a network as one program, x -> logits."""
    graph, known, parts = fx.Graph(), {}, {}
    for half in (cut.prefix, cut.suffix):
        given = iter([known[node] for node in cut.prefix.graph.output_node().args[0]] if half is cut.suffix else [])
        for node in half.graph.nodes:
            if node.op in ("call_module", "get_attr"):
                owner, _, name = node.target.rpartition(".")
                parts[node.target] = getattr(half.get_submodule(owner), name)
            if node.op == "placeholder" and half is cut.suffix:
                known[node] = next(given)
            elif node.op != "output":
                known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(known[cut.suffix.graph.output_node().args[0][0]])
    module = fx.GraphModule(parts, graph).eval()
    module.graph.eliminate_dead_code()
    return module


def scaled(query: Tensor, scale: float | None) -> Tensor:
    """q / sqrt(d), or q times the scale the network asks for."""
    return query * (query.shape[-1] ** -0.5 if scale is None else scale)


def _written_out(module: fx.GraphModule) -> fx.GraphModule:
    """Every fused attention as softmax(q k^T / sqrt(d) + mask) v, step by step."""
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target is F.scaled_dot_product_attention:
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(_attend(module.graph, *node.args, **node.kwargs))
            module.graph.erase_node(node)
    module.recompile()
    return module


def _attend(graph: fx.Graph, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False) -> fx.Node:
    if is_causal or enable_gqa:
        raise NotImplementedError("causal attention, or several queries to a key")
    query = graph.call_function(scaled, (query, scale))
    scores = graph.call_function(torch.matmul, (query, graph.call_method("transpose", (key, -2, -1))))
    if attn_mask is not None:
        scores = graph.call_function(torch.add, (scores, attn_mask))
    return graph.call_function(torch.matmul, (graph.call_method("softmax", (scores,), {"dim": -1}), value))


@torch.no_grad()
def _values(module: fx.GraphModule, x: Tensor) -> dict[fx.Node, object]:
    recorded = Recorded(module)
    recorded.run(x)
    return recorded.env


def _matrices(graph: fx.Graph, values: dict, cells: int) -> list[fx.Node]:
    """The softmaxes over all tokens of an image: [1 heads N N], N = cells and a few prefix tokens."""
    found = []
    for node in graph.nodes:
        value, name = values.get(node), getattr(node.target, "__name__", node.target)
        if not isinstance(value, Tensor) or value.dim() != 4 or len(value) != 1 or value.shape[2] != value.shape[3]:
            continue
        softmax = name == "softmax" or (node.op == "call_module" and isinstance(graph.owning_module.get_submodule(name), nn.Softmax))
        if softmax and 1 <= value.shape[3] - cells <= MOST_PREFIX_TOKENS:
            found.append(node)
    return [node for node in found if values[node].shape[3] == values[found[-1]].shape[3]]


def _tried(module: fx.GraphModule, x: Tensor) -> tuple[bool, str | None]:
    """Whether the logits depend on the class token's row of the last attention, and which operation has no relevance rule.

    Tried on a copy in which parameters that are zero throughout, as some are in a fresh network, are moved a little.
    """
    kept, draws = {id(value): value for value in module.parameters() if value.any()}, torch.Generator().manual_seed(0)
    moved = copy.deepcopy(module, dict(kept))
    for value in moved.parameters():
        if id(value) not in kept:
            value.data += 0.05 * torch.randn(value.shape, generator=draws).to(value)
    logits, *matrices = moved.graph.output_node().args[0]
    recorded = Exact(moved, matrices[0])
    with torch.enable_grad():
        y = recorded.run(x.double())[0]
        d = torch.randn(y.shape, generator=draws).to(y)
        (gradient,) = torch.autograd.grad((d * y).sum(), recorded.env[matrices[-1]], allow_unused=True)
    reached, unruled = gradient is not None and bool(gradient[:, :, 0].any()), None
    try:
        relevances(moved, recorded.env, d, matrices)
    except Exception as error:  # NoRule, or a rule met in a form it is not written for
        unruled = f"relevance cannot be followed through it ({line(error)}); use rollout or raw_attention"
    return reached, unruled
