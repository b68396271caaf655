"""The attention family against slow float64 references, image by image, and the properties its parts owe."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import fx, nn

import pipeline
from pipeline import backbones, engine
from pipeline.backbones.cutting.attention import ValueRecorder, attention_graph
from pipeline.backbones.cutting.relevance import NoRule, relevances
from pipeline.engine.batch import Batch
from pipeline.engine.forward import run_forward
from pipeline.engine.runners import attention
from pipeline.methods import METHODS
from pipeline.refusal import Refusal
from pipeline.spec.grammar import parse
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions
from tests.conditioning import Double, agree, doubled, off, rounding, widened
from tests.references.attention import grid, raw_attention, rollout, softmaxes, tibav
from tests.untouched import assert_untouched
from tests.vits import CLASSES, NETWORKS, PREFIX, SIZE, TINY, build

SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 12, "num_heads": (1, 1, 1, 1)}
FAMILY = sorted(name for name, method in METHODS.items() if method.family == "attention" and not method.streams)


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(kind):
    return backbones.load("tests.vits:build", args={"kind": kind}, image_size=SIZE)


@pytest.fixture(scope="module")
def vit():
    return backbones.load("tests.vits:build", args={"kind": "vit"}, image_size=SIZE)


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, SIZE, SIZE), dtype=np.uint8))


def scene(backbone, images, targets=("label",), precision="fp32"):
    seen = run_forward(backbone, backbone.prepare(images))
    answers = Predictions(seen.logits, images[:, 0, 0, 0].long() % CLASSES)
    explained = [TARGETS[r.name].explain(answers, **r.args) for r in (parse(t, TARGETS, "target") for t in targets)]
    return Batch(seen, tuple(explained), images, None, precision=precision)


def maps(backbone, images, written, target="label", **how):
    return engine.maps(parse(written, METHODS, "method"), scene(backbone, images, (target,), **how), 0)


def program(backbone, images):
    """Logits and the attention of every block, from the program with attention in sight."""
    return attention_graph(backbone).module(backbone.prepare(images))


def test_the_program_with_attention_in_sight_gives_the_networks_logits(kind, backbone, images):
    logits, *matrices = attention_graph(backbone).module(backbone.prepare(images))
    assert attention_graph(backbone).prefix == PREFIX[kind]
    agree(lambda backbone: program(backbone, images)[0], backbone, build(kind).double()(doubled(backbone, images)))
    assert len(matrices) == 2
    for A in matrices:
        off_one = (A.double().sum(3) - 1).abs().max()
        assert off_one <= 2 * (A.shape[3] + 1) * 2.0**-24, "each of N weights is rounded, and so is what they are divided by"


def test_attention_is_the_networks_own(kind, backbone, images):
    for block, expected in enumerate(softmaxes(build(kind), doubled(backbone, images))):
        agree(lambda backbone, block=block: program(backbone, images)[1 + block], backbone, expected)


def test_a_network_that_does_not_fuse_its_attention_gives_the_same(vit, images, monkeypatch):
    monkeypatch.setattr("timm.layers.config._USE_FUSED_ATTN", 0)
    plain = backbones.load("tests.vits:build", args={"kind": "vit"}, image_size=SIZE)
    for backbone, fused in ((vit, True), (plain, False)):
        called = {node.target for node in backbone.cut.prefix.graph.nodes}
        assert (torch.nn.functional.scaled_dot_product_attention in called) is fused
    wide = widened(vit)
    for method in FAMILY:
        with Double():
            exact = maps(wide, images, method)
        agree(lambda backbone, method=method: maps(backbone, images, method), plain, exact)


def test_raw_attention_follows_its_formula(kind, backbone, images):
    last = softmaxes(build(kind), doubled(backbone, images))[-1]
    expected = np.stack([grid(raw_attention(one), backbone) for one in last])
    agree(lambda backbone: maps(backbone, images, "raw_attention"), backbone, expected)


@pytest.mark.parametrize("start", [0, 1])
def test_rollout_follows_its_formula(kind, backbone, images, start):
    blocks = softmaxes(build(kind), doubled(backbone, images))
    expected = np.stack([grid(rollout([A[i] for A in blocks], start), backbone) for i in range(len(images))])
    agree(lambda backbone: maps(backbone, images, f"rollout(start={start})"), backbone, expected)


@pytest.mark.parametrize(("target", "start"), [("label", 0), ("finer", 1), ("reverse", 0)])
@pytest.mark.parametrize("kind", ["vit", "distilled", "registers", "normed keys"])  # the reference is written for a plain ViT's blocks
def test_tibav_follows_its_formula(kind, images, target, start):
    backbone = backbones.load("tests.vits:build", args={"kind": kind}, image_size=SIZE)
    seen = scene(backbone, images, (target,))
    x, directions = backbone.prepare(images), seen.targets[0].directions[:, 0]
    expected = [grid(row, backbone) for row in tibav(build(kind), x, directions, start)]
    found = engine.maps(parse(f"tibav(start={start})", METHODS, "method"), seen, 0).numpy()
    for i, one in enumerate(expected):
        assert np.abs(found[i] - one).max() <= 1e-5 * one.max()  # relevance.STEADY moves it that much


@pytest.mark.parametrize("target", ["label", "finer", "reverse"])
def test_tibav_is_one_class_at_a_time(backbone, images, target):
    found = maps(backbone, images, "tibav", target)
    assert (found >= 0).all()
    assert (found.amax((1, 2)) > 0).all()


class Residual(nn.Module):
    """Attention without its linear layers, beside a linear branch; every rule but those of the norms."""

    def __init__(self):
        super().__init__()
        self.first, self.branch = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)

    def forward(self, x):
        x = self.first(x)
        q, k = torch.stack([x, x.neg()], 1).unbind(1)
        attended = (q @ k.transpose(1, 2) * 0.5).softmax(2) @ x
        x = x + self.branch(attended)
        return (x[:, 0] * torch.cat([x[:, 1], x[:, 2]], 1)[:, 3:9]).reshape(-1, 6) - x.mean(1)


def test_relevance_is_conserved_image_by_image():
    torch.manual_seed(0)
    module = fx.symbolic_trace(Residual().double())
    module.graph.output_node().args = ((module.graph.output_node().args[0],),)
    module.recompile()
    values = ValueRecorder(module)
    with torch.no_grad():
        values.run(torch.randn(3, 4, 6, dtype=torch.float64))
    seed = torch.rand(3, 6, dtype=torch.float64)
    start = next(node for node in module.graph.nodes if node.name == "first")
    (R,) = relevances(module, values.env, seed, [start])
    torch.testing.assert_close(R.sum((1, 2)), seed.sum(1))
    (twice,) = relevances(module, values.env, 2 * seed, [start])
    torch.testing.assert_close(twice, 2 * R)


def test_relevance_is_conserved_through_a_network(vit, images):
    module = attention_graph(vit).module
    values = ValueRecorder(module)
    with torch.no_grad():
        logits, *_ = values.run(vit.prepare(images))
    d = torch.eye(CLASSES)[: len(images)]
    tokens = next(node for node in module.graph.nodes if node.target == "network.norm_pre")
    (R,) = relevances(module, values.env, d, [tokens])
    torch.testing.assert_close(R.sum((1, 2)), torch.ones(len(images)), atol=1e-3, rtol=0)


def test_an_operation_without_a_rule_is_named():
    class Odd(nn.Module):
        def forward(self, x):
            return (x * 2).exp()

    module = fx.symbolic_trace(Odd())
    module.graph.output_node().args = ((module.graph.output_node().args[0],),)
    values = ValueRecorder(module)
    values.run(torch.ones(1, 2))
    with pytest.raises(NoRule, match="exp"):
        relevances(module, values.env, torch.ones(1, 2), [next(node for node in module.graph.nodes if node.name == "mul")])


def test_methods_by_hand():
    # two blocks, three tokens; only the class token's row of the last and all rows of the first matter
    first = torch.tensor([[[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]])
    last = torch.tensor([[[0.0, 0.75, 0.25], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    assert METHODS["raw_attention"].map([first, last]).tolist() == [[0.0, 0.75, 0.25]]
    # (I + last)/2 row 0 = (1/2, 3/8, 1/8); (I + first)/2 = [(3/4, 1/8, 1/8), (0, 1, 0), (1/4, 0, 3/4)]
    assert METHODS["rollout"].map([first, last]).tolist() == [[3 / 8 + 1 / 32, 1 / 16 + 3 / 8, 1 / 16 + 3 / 32]]
    assert METHODS["rollout"].map([first, last], start=1).tolist() == [[1 / 2, 3 / 8, 1 / 8]]
    # two heads each: one agrees with its gradient, one is against it, so half of the attention's numbers remain
    dA, RA = [torch.stack([A, -A], 1) for A in (first, last)], [torch.ones(1, 2, 3, 3)] * 2
    # row 0 of I + last/2 = (1, 3/8, 1/8); I + first/2 = [(5/4, 1/8, 1/8), (0, 3/2, 0), (1/4, 0, 5/4)]
    assert METHODS["tibav"].map(dA, RA).tolist() == [[5 / 4 + 1 / 32, 1 / 8 + 9 / 16, 1 / 8 + 5 / 32]]
    assert METHODS["tibav"].map(dA, RA, start=1).tolist() == [[1.0, 3 / 8, 1 / 8]]


@pytest.mark.parametrize("method", FAMILY)
def test_maps_depend_on_their_image_alone_and_repeat(backbone, images, method, monkeypatch):
    whole = maps(backbone, images, method, "finer")
    assert torch.equal(maps(backbone, images, method, "finer"), whole)
    alone = torch.cat([maps(backbone, images[i : i + 1], method, "finer") for i in range(len(images))])
    wide = widened(backbone)
    slack = rounding(lambda: maps(wide, images, method, "finer"))[1]  # of each of two
    assert (off(whole, alone) <= 2 * slack).all()
    monkeypatch.setattr(attention, "NUMBERS", 1)  # one image a pass
    assert (off(whole, maps(backbone, images, method, "finer")) <= 2 * slack).all()


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("tests.tiny:build", {}, "no class token attention"),
        ("timm/swin_tiny_patch4_window7_224", SWIN, "no class token attention"),
        ("timm/vit_base_patch16_siglip_224", TINY, "no class token attention"),
        ("timm/beit_base_patch16_224", TINY, "does not read the class token"),
    ],
)
def test_a_network_without_class_token_attention_is_told_before_the_job_starts(name, args, reason):
    args = args if "tiny:build" in name else {"pretrained": False, **{key: value for key, value in args.items() if key != "img_size"}}
    backbone = backbones.load(name, args=args, image_size=SIZE if "swin" not in name else 224)
    pixels = np.zeros((1, 3, *backbone.image_size), np.uint8)
    for method in FAMILY:
        with pytest.raises(Refusal, match=reason) as told:
            pipeline.explain(pixels, [0], backbone, [method], ["label"])
        assert method in str(told.value)
        assert "\n" not in str(told.value)


def test_a_network_that_relevance_cannot_be_followed_through_has_attention_all_the_same():
    args = {"pretrained": False, "act_layer": "elu", **{key: value for key, value in TINY.items() if key != "img_size"}}
    backbone = backbones.load("timm/vit_tiny_patch16_224", args=args, image_size=SIZE)
    reasons = {method: engine.misfit(parse(method, METHODS, "method"), backbone) for method in FAMILY}
    assert "'ELU'" in reasons.pop("tibav")
    assert set(reasons.values()) == {None}


def test_a_start_that_is_no_block_is_refused(vit):
    for method in ("rollout", "tibav"):
        assert "0 to 1" in engine.misfit(parse(f"{method}(start=2)", METHODS, "method"), vit)
        with pytest.raises(Refusal, match="start is -1; it must be at least 0"):
            parse(f"{method}(start=-1)", METHODS, "method")
    assert engine.misfit(parse("rollout(start=1)", METHODS, "method"), vit) is None


def test_a_join_of_directions_is_refused(vit, images):
    with pytest.raises(Refusal, match="CAM family"):
        maps(vit, images, "tibav", "finer(aggregation=max_pre)")


def test_class_free_methods_name_no_class(vit, images):
    tables = pipeline.explain(images.numpy(), [0, 1, 2, 3], vit, FAMILY, ["label", "finer"])
    assert tables["errors"].num_rows == 0
    rows = tables["maps"].to_pylist()
    named = {(row["method"], row["target"], row["class_id"] is None) for row in rows}
    assert named == {("raw_attention", "none", True), ("rollout", "none", True), ("tibav", "label", False), ("tibav", "finer", False)}
    assert all((row["height"], row["width"]) == vit.grid for row in rows)


def test_what_it_costs(images, monkeypatch):
    network = build("vit")
    monkeypatch.setattr("tests.vits.build", lambda: network)
    backbone = backbones.load("tests.vits:build", image_size=SIZE)
    attention_graph(backbone)
    seen = scene(backbone, images, ("label", "finer"))
    passed, backward, grad = [], [], torch.autograd.grad
    handle = network.patch_embed.proj.register_forward_hook(lambda module, given, value: passed.append(len(value)))
    monkeypatch.setattr("torch.autograd.grad", lambda *a, **k: (len(a) == 2 and backward.append(1), grad(*a, **k))[1])
    for method in ("raw_attention", "rollout"):
        engine.maps(parse(method, METHODS, "method"), seen, 0)
    assert (sum(passed), len(backward)) == (len(images), 0)  # one forward, shared
    for target in (0, 1):
        engine.maps(parse("tibav", METHODS, "method"), seen, target)
    handle.remove()
    assert (sum(passed), len(backward)) == (3 * len(images), 2)  # and one forward and one backward per target


def test_nothing_is_left_on_the_network(images, monkeypatch):
    network = build("registers")
    network.head.weight.data.zero_()
    monkeypatch.setattr("tests.vits.build", lambda: network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    backbone = backbones.load("tests.vits:build", image_size=SIZE)
    for method in FAMILY:
        assert engine.misfit(parse(method, METHODS, "method"), backbone) is None
        maps(backbone, images, method)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert_untouched(network)
    cut = weakref.ref(backbone.cut)
    del backbone
    gc.collect()
    assert cut() is None


@pytest.mark.parametrize("method", FAMILY)
def test_half_precision_is_near_full_precision(vit, images, method):
    full, half = (maps(vit, images, method, precision=precision) for precision in ("fp32", "bf16"))
    assert np.corrcoef(full.flatten(), half.flatten())[0, 1] > 0.99
