"""CALM: its formulas against float64 references, its maps against its probabilities, trunks on finer grids, sets of classes."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import pipeline
from pipeline import backbones, engine
from pipeline.backbones.cutting import strides
from pipeline.backbones.heads import Calm, location, log_classes, log_marginal
from pipeline.classes.class_sets import read_class_sets
from pipeline.engine.batch import Batch
from pipeline.engine.forward import run_forward
from pipeline.maps.render import unit
from pipeline.methods import METHODS
from pipeline.plan.fit import with_class_sets
from pipeline.refusal import Refusal
from pipeline.sources.labels import Classes
from pipeline.spec.explain_spec import build_spec
from pipeline.spec.grammar import parse
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions
from pipeline.train.losses import expected, marginal
from tests.conditioning import DOUBLE, agree, near

LABELS = torch.tensor([1, 0, 3])


def branches(seed: int = 0, **how):
    """f and a drawn at random in double precision, with what the head makes of them."""
    draws = torch.Generator().manual_seed(seed)
    f, a = (torch.randn(3, count, 4, 5, generator=draws, dtype=torch.float64).requires_grad_() for count in (6, 1))
    return f, a, log_classes(f), location(a, **how)


def reference(f: np.ndarray, a: np.ndarray, positive: str) -> tuple[np.ndarray, np.ndarray]:
    """g and h cell by cell, as equation 3 and the text before it have them."""
    g = np.exp(f) / np.exp(f).sum(1, keepdims=True)
    r = np.log1p(np.exp(a)) if positive == "softplus" else np.maximum(a, 0)
    return g, r / r.sum((2, 3), keepdims=True)


@pytest.mark.parametrize("positive", ["softplus", "relu"])
def test_the_losses_are_those_of_the_paper(positive):
    f, a, log_g, h = branches(positive=positive)
    g, place = reference(f.detach().numpy(), a.detach().numpy(), positive)
    joint = np.stack([(g[i, y] * place[i, 0]) for i, y in enumerate(LABELS.tolist())])
    np.testing.assert_allclose(marginal(log_g, h, LABELS).detach(), -np.log(joint.sum((1, 2))), **DOUBLE)
    if positive == "softplus":  # ReLU's zeros meet the floor of log h
        q = joint / joint.sum((1, 2), keepdims=True)
        np.testing.assert_allclose(expected(log_g, h, LABELS).detach(), -(q * np.log(joint)).sum((1, 2)), **DOUBLE)


@pytest.mark.parametrize("loss", [marginal, expected])
@pytest.mark.parametrize("positive", ["softplus", "relu"])
def test_the_gradient_of_either_loss_is_that_of_the_marginal_likelihood(loss, positive):
    """With q from the present weights the bound touches the likelihood where it is taken, so both have one gradient."""

    def likelihood(f, a):
        g, r = f.softmax(1), torch.nn.functional.softplus(a) if positive == "softplus" else a.relu()
        joint = g[torch.arange(3), LABELS] * (r / r.sum((2, 3), keepdim=True))[:, 0]
        return -joint.sum((1, 2)).log().sum()

    f, a, log_g, h = branches(positive=positive)
    found = torch.autograd.grad(loss(log_g, h, LABELS).sum(), (f, a))
    # where ReLU gives zero, the floor of log h leaves q a share of 1e-8 / p(y) in every cell
    left = 0 if positive == "softplus" else 1e-8 * h[0, 0].numel() * marginal(log_g, h, LABELS).exp().max().item()
    for each, wanted in zip(found, torch.autograd.grad(likelihood(f, a), (f, a)), strict=True):
        torch.testing.assert_close(each, wanted, rtol=DOUBLE["rtol"], atol=DOUBLE["atol"] + left)
    assert torch.autograd.gradcheck(lambda f, a: likelihood(f, a), (f, a))


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_of_em_is_never_below_the_marginal_loss(seed):
    _, _, log_g, h = branches(seed)
    assert (expected(log_g, h, LABELS) >= marginal(log_g, h, LABELS)).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_the_marginal_loss_and_the_entropy_of_where_the_cue_is(seed):
    """-sum q log(q p) = H(q) - log p: EM with the present weights takes ML's steps, and would not if q kept its gradient."""
    f, a, log_g, h = branches(seed)
    joint = (log_g + h.log())[torch.arange(3), LABELS].flatten(1)
    q = joint.softmax(1)
    entropy = -(q * q.log()).sum(1)
    torch.testing.assert_close(expected(log_g, h, LABELS), marginal(log_g, h, LABELS) + entropy, **DOUBLE)
    both = marginal(log_g, h, LABELS) + entropy
    with_gradient, without = (torch.autograd.grad(each.sum(), (f, a), retain_graph=True) for each in (both, expected(log_g, h, LABELS)))
    assert all((one - other).abs().max() > 1e-3 for one, other in zip(with_gradient, without, strict=True))


def test_a_detached_normaliser_only_lets_the_location_grow():
    f, a, log_g, h = branches(normaliser="detached")
    (gradient,) = torch.autograd.grad(expected(log_g, h, LABELS).sum(), a)
    assert (gradient <= 0).all()
    _, balanced, log_g, h = branches()
    (gradient,) = torch.autograd.grad(expected(log_g, h, LABELS).sum(), balanced)
    assert (gradient > 0).any()


def test_joint_probabilities_add_up_over_cells_and_classes():
    f, a, log_g, h = branches()
    joint = log_g.exp() * h
    torch.testing.assert_close(joint.sum((2, 3)), log_marginal(log_g, h).exp(), **DOUBLE)
    torch.testing.assert_close(joint.sum(1, keepdim=True), h, **DOUBLE)
    torch.testing.assert_close(joint.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64), **DOUBLE)


@pytest.mark.parametrize("positive", ["softplus", "relu"])
def test_a_head_whose_location_is_nowhere_stays_finite(positive):
    head = Calm(4, 3, positive)
    torch.nn.init.constant_(head.place.bias, -1e4)
    A = torch.randn(2, 4, 3, 3)
    log_g, h = head.branches(A)
    (expected(log_g, h, torch.tensor([0, 1])) + marginal(log_g, h, torch.tensor([0, 1]))).sum().backward()
    assert head(A).isfinite().all()
    assert all(value.grad.isfinite().all() for value in head.parameters())


FAMILIES = {
    "resnet50": {"size": 64},
    "vgg11_bn": {"size": 64},
    "inception_v3": {"size": 139},
    "mobilenetv2_100": {"size": 64, "pad_type": "same"},
    "convnext_atto": {"size": 64},
    "resnet26d": {"size": 64},
}


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("stride", [8, 16, None])
def test_a_trunk_without_its_last_strides_has_the_wanted_grid_and_its_own_weights(name, stride):
    args = dict(FAMILIES[name])
    size = args.pop("size")
    network = timm.create_model(name, **args).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = network.forward_features(x)
        trunk, found = strides.trunk(network, (size, size), stride)
        A = trunk(x)
    assert found == (stride or 32)
    # inception's first convolutions have no padding: 139, 69, 67, 33, 31, 15 and then 7 pixels
    side = {8: 15, 16: 7, 32: 3}[found] if name == "inception_v3" else size // found
    assert A.shape == (1, whole.shape[1], side, side)
    after = trunk.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    # What is gone is the classifier; VGG's is two layers that timm runs as convolutions.
    assert {key.split(".")[0] for key in before if key not in after} <= {"fc", "classifier", "head", "pre_logits"}
    if stride is None:
        agree(lambda trunk, x: trunk(x), (trunk, x), copy.deepcopy(network).double().forward_features(x.double()), draws=1)


def test_without_a_stride_the_same_filters_see_every_cell():
    """Where nothing but a last pool is taken away, every second cell is what the network had there."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.ReLU(), torch.nn.MaxPool2d(2, 2))
    network.forward_features = network.forward
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        trunk, _ = strides.trunk(network, (32, 32), 2)
        agree(lambda trunk, x: trunk(x)[:, :, ::2, ::2], (trunk, x), copy.deepcopy(network).double()(x.double()))


@pytest.mark.parametrize(
    ("name", "stride", "words"),
    [
        ("test_vit", None, "name a convolutional"),
        ("convnext_atto", 2, r"choose one of \[1, 4, 8, 16, 32\]"),
        ("test_resnet", 64, "choose one of"),
    ],
)
def test_what_has_no_such_grid_is_refused(name, stride, words):
    network = timm.create_model(name, **({"img_size": 64} if name == "test_vit" else {}))
    with pytest.raises(Refusal, match=words):
        strides.trunk(network, (64, 64), stride)


@pytest.fixture(scope="module")
def seen():
    """A CALM network's look at three images, with p(y|x,z) and p(z|x)."""
    return looked(backbones.load("tests.tiny:calm", image_size=64))


def looked(backbone):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8))
    found = run_forward(backbone, backbone.prepare(pixels))
    log_g, h = backbone.branches(found.A.detach())
    return found, pixels, log_g.detach().exp(), h.detach()


def map_of(seen, method: str, target: str, **settings):
    found, pixels, _, _ = seen
    request = parse(target, TARGETS, "target")
    argument = {"argument": request.argument} if request.argument is not None else {}
    explained = TARGETS[request.name].explain(Predictions(found.logits, torch.tensor([0, 3, 1])), **argument, **request.args)
    return engine.maps(parse(method, METHODS, "method"), Batch(found, (explained,), pixels, lambda name: [0, 1, 2]), 0).detach()


def test_an_attribution_adds_up_to_the_probability_of_its_class(seen):
    def p(seen):
        return seen[0].logits.softmax(1)

    def of_the_label(seen):
        return p(seen)[torch.arange(3), [0, 3, 1]]

    same(seen, lambda seen: p(seen).log(), lambda seen: seen[0].logits)
    same(seen, lambda seen: map_of(seen, "calm", "label").sum((1, 2)), of_the_label)
    difference = "finer(T=1,gamma=1)"
    same(seen, lambda seen: map_of(seen, "calm", difference).sum((1, 2)), lambda seen: of_the_label(seen) - rivals(p(seen)))


def same(seen, program, expected):
    """Two ways to one number, of a look at the images anew: in double precision, and in single as far as rounding leaves it."""
    agree(lambda backbone: program(looked(backbone)), seen[0].backbone, lambda backbone: expected(looked(backbone)))


def rivals(p):
    others = p.clone()
    others[torch.arange(3), [0, 3, 1]] = -1
    return others.amax(1)


def test_saliency_is_the_attribution_of_all_classes_and_a_set_that_of_its_members(seen):
    def of(target, method="calm"):
        return lambda seen: map_of(seen, method, target)

    saliency = of("label", "calm(map=saliency)")
    same(seen, of("class_set:all"), saliency)
    same(seen, lambda seen: sum(of(f"class:{c}")(seen) for c in range(5)), saliency)
    same(seen, of("class_set:1+4"), lambda seen: of("class:1")(seen) + of("class:4")(seen))


def test_the_two_conditionals_are_named_for_what_they_are(seen):
    def location(seen):
        return map_of(seen, "calm(map=location)", "class:2")

    def normalised(seen):
        joint = map_of(seen, "calm", "class:2")
        return joint / joint.sum((1, 2), keepdim=True)

    same(seen, lambda seen: map_of(seen, "calm(map=conditional)", "class:2"), lambda seen: seen[2][:, 2])
    same(seen, lambda seen: location(seen).sum((1, 2)), lambda seen: torch.ones(3))
    same(seen, location, normalised)


def test_negative_evidence_of_a_counterfactual_is_kept_unless_it_is_not_wanted(seen):
    whole = map_of(seen, "calm", "finer")
    assert (whole < 0).any()
    assert torch.equal(map_of(seen, "calm(norm=relu)", "finer"), whole.relu())


def test_clipping_leaves_probabilities_as_they_are_and_ends_at_one(seen):
    for target in ("label", "class_set:all"):
        assert torch.equal(map_of(seen, "calm(norm=clipping)", target), map_of(seen, "calm", target))
    assert torch.equal(map_of(seen, "calm(norm=clipping)", "finer"), map_of(seen, "calm", "finer").clamp(0, 1))
    many = map_of(seen, "calm(map=location)", "finer(gamma=-99)")  # a hundred times what may be one
    cut = map_of(seen, "calm(map=location,norm=clipping)", "finer(gamma=-99)")
    assert torch.equal(cut, many.clamp(max=1)) and many.max() > 1 >= cut.max()


@pytest.mark.parametrize(("name", "args"), [("tests.tiny:build", {}), ("timm/test_vit", {"pretrained": "false", "img_size": "64"})])
def test_calm_is_refused_where_there_is_no_latent_place(name, args):
    images = np.zeros((1, 3, 64, 64), np.uint8)
    with pytest.raises(Refusal, match="train one with jobs.train"):
        pipeline.explain(images, [0], pipeline.Network(name, args=tuple(args.items()), image_size=64), ["calm"])


def sets(tmp_path, content, names=("n1", "n2", "n3", "n4"), is_a=None):
    (tmp_path / "sets.json").write_text(json.dumps(content))
    return read_class_sets(str(tmp_path / "sets.json"), Classes(4, names), is_a)


def test_class_sets_are_read_by_number_by_name_and_by_synset(tmp_path):
    (tmp_path / "isa.txt").write_text("animal dog\ndog n2\ndog n4\nanimal n1\nplant n3\n")
    content = {"pair": [3, "n1"], "dogs": {"synset": "dog"}, "animals": {"synset": "animal"}, "self": {"synset": "n3"}}
    found = sets(tmp_path, content, is_a=str(tmp_path / "isa.txt"))
    assert found == {"pair": (0, 3), "dogs": (1, 3), "animals": (0, 1, 3), "self": (2,)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "is no file of class sets"),
        ({"a": 1}, "is no file of class sets"),
        ({"a": ["n9"]}, "not one of the class names"),
        ({"a": [4]}, "outside 0"),
        ({"a": []}, "none of the network's classes"),
        ({"a": {"synset": "dog"}}, "--is-a"),
    ],
)
def test_class_sets_that_say_nothing_are_refused(tmp_path, content, words):
    with pytest.raises(Refusal, match=words):
        sets(tmp_path, content)


JOINED = {"own": "own", "named": "low", "several": "0+1", "every": "all"}
SUPERSETS = Path(__file__).parents[2] / "docs" / "imagenet_supersets.json"
# Sets of which WordNet has more classes than CALM's table counts; which of them it leaves out, nothing says.
LARGER = {
    "canine": 130, "bird": 59, "building": 14, "ball": 10, "feline": 13, "aircraft": 4, "place of business": 9, "piece of cloth": 5,
}  # fmt: skip


@pytest.fixture
def listed(realdata) -> list[tuple[str, str, int]]:
    """(name, synset, classes) of each entry of CALM's table 4."""
    paper = realdata.parent / "papers" / "calm.txt"
    if not paper.is_file():
        pytest.skip(f"the paper's text is not at {paper}")
    lines = (line.split("\t") for line in paper.read_text().splitlines())
    found = [line[i : i + 3] for line in lines if len(line) == 9 and re.fullmatch(r"n\d{8}", line[1]) for i in (0, 3, 6)]
    return [(name.partition(",")[0].strip(), synset, int(classes)) for name, synset, classes in found]


def test_the_supersets_are_those_that_calm_lists(listed):
    """120 rows, of which two come twice; their sizes are as listed but for eight."""
    assert (len(listed), sum(classes for *_, classes in listed)) == (120, 687)
    sizes = {name: classes for name, _, classes in listed}
    assert sizes.keys() == json.loads(SUPERSETS.read_text()).keys() and len(sizes) == 118
    found = read_class_sets(str(SUPERSETS), Classes(1000, ()))
    assert {name: len(found[name]) for name in sizes} == sizes | LARGER
    assert all(LARGER[name] > sizes[name] for name in LARGER)


def test_the_supersets_are_wordnets(listed, realdata, tmp_path):
    """All classes at or below a synset, once where the listed sizes leave those of a set below, or beside it, out."""
    nouns = Path("/usr/share/wordnet/data.noun")
    if not nouns.is_file():
        pytest.skip("WordNet 3.0 is not here: it comes with Debian's wordnet-base")
    lines = (line.split() for line in nouns.read_text("latin-1").splitlines() if not line.startswith("  "))
    above = ((line[0], re.findall(r" @i? (\d{8}) n", " ".join(line).partition(" | ")[0])) for line in lines)
    (tmp_path / "isa.txt").write_text("".join(f"n{parent} n{synset}\n" for synset, parents in above for parent in parents))
    (tmp_path / "sets.json").write_text(json.dumps({name: {"synset": synset} for name, synset, _ in listed}))
    wnids = tuple((realdata / "imagenet_wnids.txt").read_text().split())
    whole = read_class_sets(str(tmp_path / "sets.json"), Classes(1000, wnids), str(tmp_path / "isa.txt"))
    for name, beside in (("ship", "warship"), ("stringed instrument", "piano"), ("truck", "car")):
        whole[name] = tuple(sorted({*whole[name]} - {*whole[beside]}))
    assert whole == read_class_sets(str(SUPERSETS), Classes(1000, wnids))


def test_of_two_supersets_the_deeper_one_is_a_classs_own():
    known = read_class_sets(str(SUPERSETS), Classes(1000, ()))
    written = tuple(f"{name}={' '.join(map(str, members))}" for name, members in known.items())
    classes = torch.arange(1000)
    found = TARGETS["class_set"].explain(Predictions(torch.zeros(1000, 1000), classes), "own", sets=written).directions[:, 0]
    assert torch.equal(found.diagonal(), torch.ones(1000))
    assert {*known["bovid"], *known["swine"]} < {*known["ungulate"]}
    for name in ("bovid", "swine", "piano", "warship"):
        assert all(found[member].nonzero()[:, 0].tolist() == list(known[name]) for member in known[name])
    assert (found.sum(1) == 1).sum() == 1000 - len({member for members in known.values() for member in members}) == 298


def test_own_is_the_smallest_set_that_holds_the_images_class():
    answers = Predictions(torch.zeros(3, 5), torch.tensor([1, 4, 2]))
    found = TARGETS["class_set"].explain(answers, "own", sets=("wide=0 1 2", "near=1 2", "other=0 3"))
    assert found.directions[:, 0].tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 1, 1, 0, 0]]
    assert found.class_id.tolist() == [1, 4, 2]


def test_a_set_of_unit_maps_is_the_sum_of_its_members_maps():
    """CAM + Y: classes 1 and 4 for the first image, 2 alone for the second, whose missing member adds nothing."""
    backbone = backbones.load("tests.tiny:build", image_size=64)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    ask = parse("class_set:own(aggregation=sum_unit)", TARGETS, "target")

    def maps(backbone):
        seen = run_forward(backbone, backbone.prepare(torch.from_numpy(images)))
        answers = Predictions(seen.logits, torch.tensor([1, 2]))
        targets = [TARGETS["class_set"].explain(answers, "own", sets=("pair=1 4",), **{"aggregation": ask.args["aggregation"]})]
        targets += [TARGETS["class"].explain(answers, str(c)) for c in (1, 2, 4)]
        scene = Batch(seen, tuple(targets), torch.from_numpy(images), lambda name: [0, 1])
        return [engine.maps(parse("cam", METHODS, "method"), scene, t).detach() for t in range(4)]

    def summed(backbone):
        _, *each = (found.numpy() for found in maps(backbone))
        return np.stack([unit(each[0][0]) + unit(each[2][0]), unit(each[1][1])])

    agree(lambda backbone: maps(backbone)[0], backbone, summed)
    assert "only the CAM family" in engine.misfit(parse("gradient", METHODS, "method"), backbone, [ask])


def test_a_set_keeps_how_its_members_are_joined():
    asked = build_spec(
        ["cam"], [f"{name}=class_set:{argument}(aggregation=sum_unit)" for name, argument in JOINED.items()] + ["class_set:own"]
    )
    found = {target.alias: target.args for target in with_class_sets(asked, {"low": (0, 1), "high": (3, 4)}).targets}
    assert found.pop("class_set:own") == {"aggregation": "sum", "sets": ("high=3 4", "low=0 1")}
    assert {name: args["aggregation"] for name, args in found.items()} == dict.fromkeys(JOINED, "sum_unit")
    assert found["named"]["sets"] == ("low=0 1",) and found["own"]["sets"] == ("high=3 4", "low=0 1")


def test_maps_of_sets_of_a_file_are_joined_as_asked():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    targets = ["class_set:low", "unit=class_set:low(aggregation=sum_unit)", "same=class_set:0+1(aggregation=sum_unit)"]
    backbone = backbones.load("tests.tiny:build", image_size=64)
    tables = pipeline.explain(images, [0, 1], backbone, ["cam"], targets, class_sets={"low": (0, 1)})
    maps = {(row["target"], row["image_id"]): row for row in tables["maps"].to_pylist()}
    for image in {image for _, image in maps}:
        plain, joined, same = (maps[name, image] for name in ("class_set:low", "unit", "same"))
        assert (joined["map"], joined["map_max"]) == (same["map"], same["map_max"]) != (plain["map"], plain["map_max"])


def test_a_set_that_is_not_there_is_refused_with_what_is():
    answers = Predictions(torch.zeros(1, 5), torch.tensor([1]))
    with pytest.raises(Refusal, match="did you mean birds"):
        TARGETS["class_set"].explain(answers, "bird", sets=("birds=0 1",))
    with pytest.raises(Refusal, match="--class-sets"):
        TARGETS["class_set"].explain(answers, "birds")
    with pytest.raises(Refusal, match="class 7"):
        TARGETS["class_set"].explain(answers, "1+7")


def test_the_members_of_a_set_are_part_of_what_identifies_its_maps():
    images = np.zeros((1, 3, 64, 64), np.uint8)
    network = backbones.load("tests.tiny:calm", image_size=64)
    from pipeline.plan.fit import with_class_sets
    from pipeline.plan.outputs import outputs_of
    from pipeline.spec.explain_spec import build_spec

    asked = [with_class_sets(build_spec(["calm"], ["class_set:b"]), {"b": members}) for members in ((1,), (1, 2))]
    one, two = ([cell.identity for cell in outputs_of(each, network, ()) if cell.table == "maps"] for each in asked)
    assert one != two
    assert images.shape[0] == 1


@pytest.mark.parametrize("metric", ["pxap", "max_box_acc_v2"])
def test_log_thresholds_tell_apart_what_even_ones_and_8_bits_do_not(metric):
    """An object a hundred-thousandth as bright as one pixel, on a background of zero."""
    from pipeline.metrics import METRICS

    S = np.zeros((20, 20))
    S[5:15, 5:15] = 1e-5
    S[9, 9] = 1
    inside = S > 0
    given = (
        {"boxes": np.array([[0.25, 0.25, 0.75, 0.75]])}
        if metric == "max_box_acc_v2"
        else {"raw": S, "truth": lambda nearest: (inside, np.ones_like(inside))}
    )
    entry = METRICS[metric]

    def total(thresholds):
        counts = entry.score(S=S, **given, thresholds=thresholds)
        return entry.corpus_level(**({"hits": counts["hits"], "n": 1} if metric == "max_box_acc_v2" else counts))

    assert total("log") == near(1, 4)
    assert total("even") < 0.3
