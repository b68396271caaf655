"""A network as one graph in which every attention matrix of its class token can be read. Traced, never hooked.

B images, N tokens = prefix tokens + h * w, C classes, L blocks.
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pipeline.backbones import Backbone
from pipeline.backbones.cutting.cut import Cut, stirred
from pipeline.backbones.cutting.graph import first_line, module_of, operation, outputs
from pipeline.backbones.cutting.grid_format import MOST_PREFIX_TOKENS
from pipeline.backbones.cutting.own_cut import OwnCut
from pipeline.backbones.cutting.relevance import Values, relevances

ELSE = "use a ViT, DeiT or DINOv2 that classifies by its class token, or a method of the CAM family"
_CACHE: WeakKeyDictionary[Cut | OwnCut, "AttentionGraph | str"] = WeakKeyDictionary()


@dataclass(frozen=True)
class AttentionGraph:
    """A network whose attention can be read.

    Attributes:
        module: the network's own modules as one program, x [B 3 H W] -> (logits [B C], A_1 [B heads N N], ..., A_L).
        prefix: number of tokens before the grid's; the first of them is the class token.
        numbers: count of the numbers in the attention matrices of one image.
        relevance_misfit: why relevance cannot be propagated through it, if it cannot.
    """

    module: fx.GraphModule
    prefix: int
    numbers: int
    relevance_misfit: str | None

    @property
    def nodes(self) -> list[fx.Node]:
        """The logits and A_1 ... A_L as values of the graph."""
        return outputs(self.module.graph)


class ValueRecorder(fx.Interpreter):
    """One pass that keeps every value in `env`; the gradient reaches back to `first` and no further."""

    def __init__(self, module: fx.GraphModule, first: fx.Node | None = None) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.first = first

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        return value.detach().requires_grad_() if n is self.first else value


class DoubleRecorder(ValueRecorder):
    """The same in double precision, for x in double precision: parameters are widened when they are read, and none is kept so."""

    def call_module(self, target: Any, args: tuple, kwargs: dict) -> object:
        module = self.fetch_attr(target)
        wide = {name: _widen(value) for name, value in (*module.named_parameters(), *module.named_buffers())}
        return torch.func.functional_call(module, wide, args, kwargs)

    def get_attr(self, target: Any, args: tuple, kwargs: dict) -> object:
        return _widen(super().get_attr(target, args, kwargs))

    def call_method(self, target: Any, args: tuple, kwargs: dict) -> object:
        return args[0] if target == "float" else super().call_method(target, args, kwargs)


def _widen(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def attention_graph(backbone: Backbone) -> AttentionGraph | str:
    """The backbone with its attention in sight, or the reason why it cannot be followed; made once per network."""
    if backbone.cut not in _CACHE:
        _CACHE[backbone.cut] = _attention_graph(backbone)
    return _CACHE[backbone.cut]


def _attention_graph(backbone: Backbone) -> AttentionGraph | str:
    if not isinstance(backbone.cut, Cut):
        return f"it brings its own trunk and head, inside which no attention can be read; {ELSE}"
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, *backbone.image_size), dtype=torch.uint8, generator=draws)
    x = backbone.prepare(pixels.to(backbone.device))
    try:
        module = _unfuse(whole_graph(backbone.cut))
        values = _values(module, x)
    except Exception as error:  # an attention called in a way that is not known here
        return f"its attention cannot be written out ({first_line(error)}); {ELSE}"
    cells = backbone.grid[0] * backbone.grid[1]
    matrices = _matrices(module, values, cells)
    if not matrices:
        return f"this network has no class token attention: no block attends over a class token and its {backbone.grid} grid; {ELSE}"
    logits = outputs(module.graph)[0]
    if not torch.allclose(values[logits], backbone.logits(x), atol=1e-4, rtol=1e-4):
        return f"its attention, written out as softmax(q k') v, does not give the network's own logits; {ELSE}"
    module.graph.output_node().args = ((logits, *matrices),)
    module.recompile()
    prefix = values[matrices[0]].shape[-1] - cells
    read, relevance_misfit = _try_gradient_and_relevance(module, x)
    if not read:
        return f"its classifier does not read the class token, so the class token's attention says nothing of its answer; {ELSE}"
    return AttentionGraph(module, prefix, sum(values[node].numel() for node in matrices), relevance_misfit)


def whole_graph(cut: Cut) -> fx.GraphModule:
    """Both halves of a network as one program, x -> logits."""
    graph, copies, modules = fx.Graph(), dict[fx.Node, fx.Node](), dict[str, Any]()
    for half in (cut.prefix, cut.suffix):
        inputs = iter([copies[node] for node in outputs(cut.prefix.graph)] if half is cut.suffix else [])
        for node in half.graph.nodes:
            if node.op in ("call_module", "get_attr"):
                owner, _, name = operation(node).rpartition(".")
                modules[operation(node)] = getattr(half.get_submodule(owner), name)
            if node.op == "placeholder" and half is cut.suffix:
                copies[node] = next(inputs)
            elif node.op != "output":
                copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[outputs(cut.suffix.graph)[0]])
    module = fx.GraphModule(modules, graph).eval()
    module.graph.eliminate_dead_code()
    return module


def scaled(query: Tensor, scale: float | None) -> Tensor:
    """q / sqrt(d), or q times the network's own scale."""
    return query * (query.shape[-1] ** -0.5 if scale is None else scale)


def _unfuse(module: fx.GraphModule) -> fx.GraphModule:
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
def _values(module: fx.GraphModule, x: Tensor) -> Values:
    recorder = ValueRecorder(module)
    recorder.run(x)
    return recorder.env


def _matrices(module: fx.GraphModule, values: Values, cells: int) -> list[fx.Node]:
    """The softmaxes over all tokens of an image: [1 heads N N], N = cells and a few prefix tokens."""
    matrices = []
    for node in module.graph.nodes:
        value = values.get(node)
        if not isinstance(value, Tensor) or value.dim() != 4 or len(value) != 1 or value.shape[2] != value.shape[3]:
            continue
        softmax = operation(node) == "softmax" or isinstance(module_of(module, node), nn.Softmax)
        if softmax and 1 <= value.shape[3] - cells <= MOST_PREFIX_TOKENS:
            matrices.append(node)
    return [node for node in matrices if values[node].shape[3] == values[matrices[-1]].shape[3]]


def _try_gradient_and_relevance(module: fx.GraphModule, x: Tensor) -> tuple[bool, str | None]:
    """Whether the logits depend on the class token's row of the last attention, and why relevance cannot be followed, if so."""
    draws = torch.Generator().manual_seed(0)
    module = stirred(module, draws)
    logits, *matrices = outputs(module.graph)
    recorder = DoubleRecorder(module, matrices[0])
    with torch.enable_grad():
        y = recorder.run(x.double())[0]
        d = torch.randn(y.shape, generator=draws).to(y)
        (gradient,) = torch.autograd.grad((d * y).sum(), recorder.env[matrices[-1]], allow_unused=True)
    read = gradient is not None and bool(gradient[:, :, 0].any())
    try:
        relevances(module, recorder.env, d, matrices)
    except Exception as error:  # NoRule, or a rule met in a form it is not written for
        return read, f"relevance cannot be followed through it ({first_line(error)}); use rollout or raw_attention"
    return read, None
