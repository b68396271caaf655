"""The network that is explained is the network that was given: found wherever it hides, seen as it sees, refused where it cannot be."""

import dataclasses
import functools
import io
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import pipeline
from pipeline import tables
from pipeline.backbones import Backbone, load
from pipeline.engine.masks import channels
from pipeline.families import METHODS, Channels
from pipeline.maps import boxes as geometry
from pipeline.maps.quantise import stored, summaries
from pipeline.maps.render import over_part, part_of, units, upsample
from pipeline.plan.check import check_job
from pipeline.plan.fit import fit_to_backbone
from pipeline.plan.outputs import outputs_of
from pipeline.refusal import Refusal
from pipeline.sources.decode import INTERPOLATIONS, decode
from pipeline.spec.explain_spec import build_spec
from pipeline.spec.job import Job

SIZE = 32


def body(scale: float = 1.0) -> nn.Module:
    """A convolution and a batch normalisation, in training mode as fresh networks are."""
    network = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6), nn.ReLU())
    network[0].weight.data *= scale
    return network


def answer() -> nn.Module:
    return nn.Linear(6, 4)


def images(backbone: Backbone, count: int) -> torch.Tensor:
    return torch.randn(count, 3, *backbone.image_size, generator=torch.Generator().manual_seed(0))


# where networks hide


class Listed:
    def __init__(self, a, b):
        self.networks = [a, {"answer": (b,)}]

    def trunk(self, x):
        return self.networks[0](x), ()

    def head(self, A, rest):
        return self.networks[1]["answer"][0](A.mean((2, 3)))


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a, b):
        self.a, self.b = a, b

    def trunk(self, x):
        return self.a(x), ()

    def head(self, A, rest):
        return self.b(A.mean((2, 3)))


class Nested:
    def __init__(self, a, b):
        self.inner = Slotted(a, b)
        self.trunk, self.head = self.inner.trunk, self.inner.head


class Plainly(nn.Module):
    """A torch module whose networks torch does not know of."""

    def __init__(self, a, b):
        super().__init__()
        self.networks = [a, b]

    def trunk(self, x):
        return self.networks[0](x), ()

    def head(self, A, rest):
        return self.networks[1](A.mean((2, 3)))


class OfTheClass:
    def trunk(self, x):
        return self.a(x), ()

    def head(self, A, rest):
        return HELD["b"](A.mean((2, 3)))


class Forward(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.body = a

    def forward(self, x):
        return self.body(x), ()


class Answer(nn.Module):
    def __init__(self, b):
        super().__init__()
        self.linear = b

    def forward(self, A, rest):
        return self.linear(A.mean((2, 3)))


@dataclass
class Fields:
    a: nn.Module
    b: nn.Module
    steps: list = field(default_factory=list)

    def trunk(self, x):
        return self.a(x), ()

    def head(self, A, rest):
        return self.b(A.mean((2, 3)))


HELD: dict[str, nn.Module] = {}
Halves = namedtuple("Halves", ["trunk", "head"])


def _trunk(a, x):
    return a(x), ()


def _head(A, rest, *, b):
    return b(A.mean((2, 3)))


def _closures(a, b):
    return SimpleNamespace(trunk=lambda x: (a(x), ()), head=lambda A, rest: b(A.mean((2, 3))))


def _class_and_global(a, b):
    OfTheClass.a, HELD["b"] = a, b
    return OfTheClass()


def _bound(a, b):
    return Halves(trunk=Slotted(a, b).trunk, head=functools.wraps(_head)(lambda A, rest, layers=(b,): layers[0](A.mean((2, 3)))))


def _bare(a, b):
    """No module is called: its tensors are."""
    weight, bias = b.weight.detach().clone(), b.bias.detach().clone()
    return SimpleNamespace(trunk=Slotted(a, b).trunk, head=lambda A, rest: A.mean((2, 3)) @ weight.T + bias)


PLACES: dict[str, Callable] = {
    "closures": _closures,
    "partials": lambda a, b: SimpleNamespace(trunk=functools.partial(_trunk, a), head=functools.partial(_head, b=b)),
    "namedtuple": lambda a, b: Halves(lambda x: (a(x), ()), lambda A, rest: b(A.mean((2, 3)))),
    "bound": _bound,
    "modules": lambda a, b: SimpleNamespace(trunk=Forward(a), head=Answer(b)),
    "tensors": _bare,
    "class and global": _class_and_global,
    **{kind.__name__: kind for kind in (Listed, Slotted, Nested, Plainly, Fields)},
}


def hidden(place: str, scale: float = 1.0, shift: float = 0.0):
    """`my_module:build` of a network that hides in a place."""
    a, b = body(scale), answer()
    b.weight.data += shift
    HELD.update(hidden_a=a)
    return PLACES[place](a, b)


@pytest.mark.parametrize("place", PLACES)
def test_a_network_is_found_wherever_it_hides(place: str):
    backbone = load("tests.backbones.test_networks:hidden", args={"place": place}, image_size=SIZE)
    assert not HELD["hidden_a"].training and not HELD["hidden_a"][1].training
    assert not any(value.requires_grad for value in HELD["hidden_a"].parameters())
    x = images(backbone, 4)
    torch.testing.assert_close(backbone.logits(x)[2:3], backbone.logits(x[2:3]), atol=1e-5, rtol=1e-5)
    others = [{"scale": 2.0}, {"shift": 0.5}]
    identities = [load("tests.backbones.test_networks:hidden", args={"place": place} | other, image_size=SIZE).identity for other in others]
    again = load("tests.backbones.test_networks:hidden", args={"place": place}, image_size=SIZE)
    assert backbone.identity == again.identity
    assert len({digest_without_args(place, **other) for other in [{}, *others]}) == 3 == len({again.identity, *identities})


def digest_without_args(place: str, **other: float) -> str:
    """The weights alone: the arguments must not be what tells two networks apart."""
    from pipeline.backbones.weights import weights_digest

    return weights_digest(load("tests.backbones.test_networks:hidden", args={"place": place} | other, image_size=SIZE).cut.state_dict())


@pytest.mark.parametrize("place", [place for place in PLACES if place != "tensors"])  # torch moves none in place but between real devices
def test_a_network_moves_wherever_it_hides(place: str):
    """The meta device refuses to meet another, as a GPU does."""
    backbone = load("tests.backbones.test_networks:hidden", args={"place": place}, image_size=SIZE).to("meta")
    assert backbone.head(*backbone.trunk(images(backbone, 2).to("meta"))).is_meta


MADE: dict[str, Callable] = {
    "scripted": torch.jit.script,
    "recorded": lambda a: torch.jit.trace(a.eval(), torch.zeros(2, 3, SIZE, SIZE)),
}


def made(how: str):
    return Slotted(MADE[how](body()), answer())


@pytest.mark.parametrize("how", MADE)
@pytest.mark.filterwarnings("ignore")
def test_inside_ones_own_halves_a_network_may_be_of_any_make(how: str):
    backbone = load("tests.backbones.test_networks:made", args={"how": how}, image_size=SIZE)
    assert not any(value.requires_grad for value in backbone.network.a.parameters())
    assert len(backbone.cut.state_dict()) == 2 + len(backbone.network.a.state_dict())


def lazy_half():
    return Slotted(nn.Sequential(nn.LazyConv2d(6, 4, 4), nn.ReLU()), answer())


def quantised_half():
    return Slotted(body(), torch.ao.quantization.quantize_dynamic(nn.Sequential(answer()), {nn.Linear}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("build", "message"), [("quantised_half", "is no tensor"), ("lazy_half", "0.weight .*has no shape yet")])
def test_weights_that_are_not_there_are_refused(build: str, message: str):
    with pytest.raises(Refusal, match=message):
        load(f"tests.backbones.test_networks:{build}", image_size=SIZE)


@functools.lru_cache
def out_of_sight() -> nn.Module:
    return body()


def unfound():
    linear = answer()
    return SimpleNamespace(trunk=lambda x: (out_of_sight()(x), ()), head=lambda A, rest: linear(A.mean((2, 3))))


def test_a_network_that_is_not_found_is_refused_where_its_mode_decides():
    with pytest.raises(Refusal, match="another image is beside it.*eval mode in build"):
        load("tests.backbones.test_networks:unfound", image_size=SIZE)
    out_of_sight().eval()
    state = load("tests.backbones.test_networks:unfound", image_size=SIZE).cut.state_dict()
    assert sorted(map(len, state.values())) == [4, 4, *[6] * 6]  # its tensors are found where they are read
    assert any(torch.equal(value, out_of_sight()[0].weight) for value in state.values())


def test_only_what_is_read_of_bare_tensors_counts():
    backbone = load("tests.backbones.test_networks:with_remains", image_size=SIZE)
    assert {name.partition(".")[0] for name in backbone.cut.state_dict()} == {"a", "b"}


def with_remains():
    network = Fields(body(), answer())
    network.steps = [torch.rand(3) for _ in range(2)]  # activations of an earlier pass, say
    return network


class Caching(Slotted):
    """Keeps a constant that its first pass makes, and the activations of every pass."""

    __slots__ = ("constant", "kept")

    def __init__(self, a, b):
        super().__init__(a, b)
        self.constant = self.kept = None

    def trunk(self, x):
        self.constant = torch.linspace(0, 1, 8) if self.constant is None else self.constant
        self.kept = self.a(x) + self.constant
        return self.kept, ()


def caching():
    return Caching(body(), answer())


def test_what_a_pass_leaves_behind_moves_and_is_no_weight():
    cut = load("tests.backbones.test_networks:caching", image_size=SIZE).cut
    assert {name.partition(".")[0] for name in cut.state_dict()} == {"a", "b"}
    assert [len(value) for value in cut.caches] == [8]


# attributes that bear our names


class Bearing(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.body, self.fc = body(), answer()
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class WithMethods(Bearing):
    def trunk(self, x):
        return self.body(x)

    def head(self, x, pre_logits=False):
        return self.fc(x.mean((2, 3)))


NAMES = {
    "feature_layer": [nn.Linear(2, 2), "fc", 3],
    "default_layer": [nn.Linear(2, 2), "nowhere", 3],
    "default_cfg": ["x.yaml", 7, nn.Linear(2, 2), {"input_size": 224}, {"input_size": "large"}],
    "pretrained_cfg": ["x.yaml", [1, 2], SimpleNamespace(input_size=None)],
    "text_weights": [torch.ones(4, 6), "x"],
    "num_prefix_tokens": ["many", 1.5, True, torch.ones(3)],
    "num_classes": ["0", torch.zeros(3), False, [0]],
    **{
        name: [7, "x", nn.Linear(2, 2)]
        for name in ("rows", "layer", "identity", "code", "cut", "network", "classes", "origin", "phrases", "grid")
    },
    "trunk": [nn.Linear(2, 2), 7],
    "head": [nn.Linear(2, 2), None],
    "readout": [nn.Linear(2, 2), 7],
}


def bearing(name: str = "", index: int = 0) -> nn.Module:
    return Bearing(**({name: NAMES[name][index]} if name else {}))


@pytest.mark.parametrize(("name", "index"), [(name, index) for name, values in NAMES.items() for index in range(len(values))])
def test_an_attribute_that_bears_our_name_means_nothing(name: str, index: int):
    plain = load("tests.backbones.test_networks:bearing", image_size=SIZE)
    backbone = load("tests.backbones.test_networks:bearing", args={"name": name, "index": index}, image_size=SIZE)
    for field_name in ("layer", "num_classes", "channels", "grid", "prepare", "feature_width", "text", "classes"):
        assert getattr(backbone, field_name) == getattr(plain, field_name)
    assert torch.equal(backbone.class_weights(), plain.class_weights())


def with_methods() -> nn.Module:
    return WithMethods()


def test_methods_trunk_and_head_of_another_form_are_not_our_own_cut():
    backbone = load("tests.backbones.test_networks:with_methods", image_size=SIZE)
    assert (backbone.layer, backbone.grid) == ("body.2", (8, 8))


def object_with_names():
    network = Fields(body(), answer())
    network.readout, network.layer, network.identity = nn.Linear(6, 4), nn.Linear(2, 2), 7
    return network


def test_an_object_with_trunk_and_head_may_bear_our_names_too():
    backbone = load("tests.backbones.test_networks:object_with_names", image_size=SIZE)
    A, rest = backbone.trunk(images(backbone, 2))
    assert backbone.layer == "own"
    torch.testing.assert_close(backbone.readout(A, rest)[1], A.mean((2, 3)))


# cuts


class Ensemble(nn.Module):
    """Two networks of one image, whose answers are averaged; `change` is done to the image before."""

    def __init__(self, a, b, change=lambda x: x):
        super().__init__()
        self.a, self.b, self.change = a, b, change

    def forward(self, x):
        x = self.change(x)
        return (self.a(x) + self.b(x)) / 2


class Flipped(nn.Module):
    def __init__(self, flip, first=False):
        super().__init__()
        self.net, self.flip, self.first = convolutional(), flip, first

    def forward(self, x):
        return self.net(self.flip(x)) + self.net(x) if self.first else self.net(x) + self.net(self.flip(x))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.near, self.far, self.fc = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(3, 6, 8, 4, 2), nn.Linear(12, 4)

    def forward(self, x):
        return self.fc(torch.cat([self.near(x).relu().mean((2, 3)), self.far(x).relu().mean((2, 3))], 1))


def convolutional() -> nn.Module:
    return nn.Sequential(body(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), answer())


def vit() -> nn.Module:
    import timm

    return timm.create_model("test_vit", num_classes=4, img_size=SIZE)


PARTED: dict[str, tuple[Callable, str]] = {
    "mean of two": (lambda: Ensemble(convolutional(), convolutional()), "a.0.2, b.0.2"),
    "mean of two normalised": (
        lambda: Ensemble(convolutional(), convolutional(), lambda x: (x - 0.5) / torch.tensor([0.1, 0.2, 0.3])[None, :, None, None]),
        "a.0.2, b.0.2",
    ),
    "mean of two shrunk": (lambda: Ensemble(convolutional(), convolutional(), nn.AvgPool2d(2)), "a.0.2, b.0.2"),
    "mean of two of tokens": (lambda: Ensemble(vit(), vit()), "a.blocks.5.norm1, b.blocks.5.norm1"),
    "mean of a cnn and a vit": (lambda: Ensemble(convolutional(), vit()), "a.0.2, b.blocks.5.norm1"),
    "flip": (lambda: Flipped(lambda x: x.flip(3)), "net.0"),
    "flip first": (lambda: Flipped(lambda x: torch.flip(x, [-1]), first=True), "net.0"),
    "turned": (lambda: Flipped(lambda x: torch.rot90(x, 1, (2, 3))), "net.0"),
    "branches": (Branches, "near, far"),
}


def parted(kind: str) -> nn.Module:
    return PARTED[kind][0]()


@pytest.mark.parametrize("kind", PARTED)
def test_a_network_that_parts_at_the_image_is_refused_with_the_layers_that_can_be_named(kind: str):
    with pytest.raises(Refusal, match="parts at the image itself") as refused:
        load("tests.backbones.test_networks:parted", args={"kind": kind}, image_size=SIZE)
    layers = PARTED[kind][1]
    assert f"--layer ({layers}" in str(refused.value)
    backbone = load("tests.backbones.test_networks:parted", args={"kind": kind}, layer=layers.partition(",")[0], image_size=SIZE)
    x = images(backbone, 1)
    changed = x.clone()
    changed[:, :, -4:, :4] += 30  # one corner, and no other
    moved = (backbone.trunk(changed)[0] - backbone.trunk(x)[0]).abs().sum(1)[0]
    h, w = backbone.grid
    assert divmod(int(moved.argmax()), w) == (h - 1, 0)


@pytest.mark.parametrize("kind", ["flip", "turned"])
def test_a_layer_that_sees_the_image_turned_is_not_the_one_that_is_cut(kind: str):
    """The module is called twice: upright, and mirrored or turned; it is cut where it is upright, above. One that is never upright:"""
    with pytest.raises(Refusal, match="mirrored or turned"):
        load("tests.backbones.test_networks:mirrored", args={"kind": kind}, layer="0", image_size=SIZE)


class Mirrored(nn.Module):
    def __init__(self, flip):
        super().__init__()
        self.flip = flip
        self.add_module("0", convolutional()[0])
        self.fc = answer()

    def forward(self, x):
        return self.fc(self.get_submodule("0")(self.flip(x)).mean((2, 3)))


def mirrored(kind: str) -> nn.Module:
    return Mirrored({"flip": lambda x: x.flip(3), "turned": lambda x: torch.rot90(x, 1, (2, 3))}[kind])


class Idiom(nn.Module):
    """A convolution whose map is pooled in one of the ways people write; each answer is the brightness of the whole image."""

    def __init__(self, channels, pool):
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(3, channels, 8, 8), pool, nn.Linear(channels, 4)
        self.conv.weight.data.fill_(1 / 192)
        self.conv.bias.data.zero_()

    def forward(self, x):
        return self.fc(self.pool(self.conv(x).relu()))


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten(2)

    def forward(self, y):
        return self.flat(y).mean(-1)


class Viewed(nn.Module):
    def forward(self, y):
        return self.read(y.view(y.size(0), y.size(1), -1)).mean(2)

    def __init__(self):
        super().__init__()
        self.read = nn.Identity()


class Scaled(Viewed):
    def forward(self, y):
        return self.read(y.reshape(y.shape[0], y.shape[1], -1) * 2).mean(2)


class Swapped(Viewed):
    def forward(self, y):
        return self.read(y.flatten(2).transpose(1, 2).permute(0, 2, 1)).mean(-1)


class ByRows(Viewed):
    def forward(self, y):
        return self.read(y.mean(3)).mean(-1)


POOLS = {kind.__name__: kind for kind in (Flattened, Viewed, Scaled, Swapped, ByRows)}


def idiom(channels: int, pool: str) -> nn.Module:
    return Idiom(channels, POOLS[pool]())


@pytest.mark.parametrize("channels", [64, 65, 60])  # as many as an 8 x 8 grid has tokens, one more, and as many as no grid has
@pytest.mark.parametrize("pool", POOLS)
def test_channels_are_never_taken_for_tokens(pool: str, channels: int):
    backbone = load("tests.backbones.test_networks:idiom", args={"channels": channels, "pool": pool}, image_size=64)
    assert (backbone.channels, backbone.grid) == (channels, (8, 8))
    A, _ = backbone.trunk(torch.nn.functional.pad(torch.ones(1, 3, 8, 8), (56, 0, 0, 56)))
    assert divmod(int(A.sum(1)[0].argmax()), 8) == (0, 7)


def channels_last() -> nn.Module:
    return ChannelsLast()


class ChannelsLast(nn.Module):
    """As many channels as the grid has rows, channels last."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_a_grid_of_as_many_rows_as_channels_lies_as_the_image_does():
    backbone = load("tests.backbones.test_networks:channels_last", layer="norm", image_size=SIZE)
    x = images(backbone, 1)
    changed = x.clone()
    changed[:, :, 4:8, 20:24] = 3
    moved = (backbone.trunk(changed)[0] - backbone.trunk(x)[0]).abs().sum(1)[0]
    assert divmod(int(moved.argmax()), 8) == (1, 5)


# in-place operations behind a contiguous value


class Contiguous(nn.Module):
    def forward(self, x):
        return x.contiguous()


class Changing(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.body, self.keep, self.change, self.fc = nn.Conv2d(3, 6, 4, 4), Contiguous(), change, answer()

    def forward(self, x):
        y = self.keep(self.body(x))
        z = self.change(y)
        return self.fc((z + y).mean((2, 3)))  # y is z by now


CHANGES: dict[str, Callable] = {
    "torch.relu_": torch.relu_,
    "F.relu_": F.relu_,
    "F.elu_": F.elu_,
    "F.hardtanh_": F.hardtanh_,
    "F.leaky_relu_": F.leaky_relu_,
    "F.threshold_": lambda y: F.threshold_(y, 0.1, 0.0),
    "torch.exp_": torch.exp_,
    "torch.clamp_": lambda y: torch.clamp_(y, 0),
    "inplace=True": lambda y: F.silu(input=y, inplace=True),
    "out=": lambda y: torch.mul(y, 2, out=y),
    "method": lambda y: y.sigmoid_(),
    "index_fill_": lambda y: y.index_fill_(1, torch.tensor([0, 2]), 0.5),
}


def changing(change: str) -> nn.Module:
    return Changing(CHANGES[change])


@pytest.mark.parametrize("change", CHANGES)
def test_a_value_that_is_changed_in_place_can_be_cut_at(change: str):
    backbone = load("tests.backbones.test_networks:changing", args={"change": change}, layer="keep", image_size=SIZE)
    network, x = backbone.network, images(backbone, 2)
    A, rest = backbone.trunk(x)
    before = A.clone()
    logits = backbone.head(A.requires_grad_(), rest)
    assert torch.equal(A, before)
    with torch.no_grad():
        z = CHANGES[change](before)
        torch.testing.assert_close(logits.detach(), network.fc((2 * z).mean((2, 3))))
    logits.sum().backward()
    assert A.grad.abs().sum() > 0


# what a network cannot be


def scripted() -> nn.Module:
    return torch.jit.script(convolutional())


def recorded() -> nn.Module:
    return nn.Sequential(torch.jit.trace(convolutional().eval(), torch.zeros(1, 3, SIZE, SIZE)))


def exported():
    return torch.export.export(convolutional().eval(), (torch.zeros(2, 3, SIZE, SIZE),))


def exported_module() -> nn.Module:
    return exported().module()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(6, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))


def compiled() -> nn.Module:
    return torch.compile(convolutional())


def compiled_in_place() -> nn.Module:
    network = convolutional()
    network[0].compile()
    return network


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(convolutional(), {nn.Linear})


def of_channels(count: int) -> nn.Module:
    network = convolutional()
    network[0][0] = nn.Conv2d(count, 6, 4, 4)
    return network


def listed() -> nn.Module:
    return Plainly2()


class Plainly2(nn.Module):
    def __init__(self):
        super().__init__()
        self.networks = {"whole": [convolutional()]}

    def forward(self, x):
        return self.networks["whole"][0](x)


def a_class() -> type:
    return Branches


@pytest.mark.parametrize(
    ("build", "args", "message"),
    [
        ("scripted", {}, "TorchScript.*before torch.jit"),
        ("recorded", {}, "TorchScript at 0.*before torch.jit"),
        ("exported", {}, "exported.*before torch.export"),
        ("exported_module", {}, "exported.*before torch.export"),
        ("lazy", {}, "0.weight has no shape yet; pass one image"),
        ("compiled", {}, "compiled.*before torch.compile"),
        ("compiled_in_place", {}, "compiled network at 0.*before torch.compile"),
        ("quantised", {}, "quantised network at 3"),
        ("of_channels", {"count": 1}, "takes images of 1 channel, and images here have 3 colours; .*in_chans=3.*x.mean"),
        ("of_channels", {"count": 6}, "takes images of 6 channels, and images here have 3 colours"),
        ("listed", {}, r"another one where torch does not see it \(networks.whole\[0\]\).*ModuleList"),
        ("a_class", {}, "the type Branches; return a network"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_a_network_cannot_be_is_told_in_one_line(build: str, args: dict, message: str, capfd):
    with pytest.raises(Refusal, match=message) as refused:
        load(f"tests.backbones.test_networks:{build}", args=args, image_size=SIZE)
    assert "\n" not in str(refused.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_network_of_timm_for_one_colour_is_told_so():
    with pytest.raises(Refusal, match="takes images of 1 channel"):
        load("timm/test_resnet", args={"pretrained": "false", "in_chans": "1"})


# preparation


def test_every_filter_that_a_network_may_be_prepared_with_is_one_that_images_are_decoded_with():
    encoded = io.BytesIO()
    Image.new("RGB", (9, 7)).save(encoded, "PNG")
    for name in INTERPOLATIONS:
        prepare = load("tests.backbones.test_networks:bearing", args={"interpolation": name}, image_size=SIZE).prepare
        decode(encoded.getvalue(), prepare.size, prepare.interpolation, prepare.crop, prepare.crop_pct)
    for name in ("hamming", "box", "cubic", "random"):
        with pytest.raises(Refusal, match=name):
            load("tests.backbones.test_networks:bearing", args={"interpolation": name}, image_size=SIZE)


@pytest.mark.parametrize("settings", [{"mean": "nan"}, {"std": "0.1,inf,0.1"}, {"mean": "0.5,0.5,1e999"}, {"crop_pct": "nan"}])
def test_a_preparation_that_is_not_finite_is_refused(settings: dict):
    with pytest.raises(Refusal, match=next(iter(settings))):
        load("tests.backbones.test_networks:bearing", args=settings, image_size=SIZE, crop="center")


# one logit, and probabilities given as logits


class Ending(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.net, self.end = convolutional(), end

    def forward(self, x):
        return self.end(self.net(x))


ENDS: dict[str, tuple[Callable, str]] = {
    "softmax module": (nn.Softmax(1), "add up to 1.*another softmax"),
    "softmax function": (lambda y: F.softmax(y, dim=-1), "add up to 1"),
    "softmax flattened": (lambda y: y[:, :, None, None].softmax(1).flatten(1), "add up to 1"),
    "mean of softmaxes": (lambda y: (y.softmax(1) + (3 * y).softmax(1)) / 2, "add up to 1"),
    "sigmoid module": (nn.Sigmoid(), "ends in a sigmoid.*--activation sigmoid"),
    "sigmoid function": (torch.sigmoid, "ends in a sigmoid"),
    "sigmoid squeezed": (lambda y: y[:, :, None].sigmoid().squeeze(2), "ends in a sigmoid"),
    "log_softmax": (nn.LogSoftmax(1), ""),
    "relu": (lambda y: y.relu(), ""),
    "softmax scaled": (lambda y: 10 * y.softmax(1), ""),
}


def ending(end: str) -> nn.Module:
    return Ending(ENDS[end][0])


def own_ending():
    return SimpleNamespace(trunk=Forward(body()), head=Answer(nn.Sequential(answer(), nn.Softmax(1))))


@pytest.mark.parametrize("end", ENDS)
def test_probabilities_are_not_taken_for_logits(end: str):
    if not ENDS[end][1]:
        assert load("tests.backbones.test_networks:ending", args={"end": end}, image_size=SIZE).num_classes == 4
        return
    with pytest.raises(Refusal, match=ENDS[end][1]) as refused:
        load("tests.backbones.test_networks:ending", args={"end": end}, image_size=SIZE)
    assert "\n" not in str(refused.value)


def test_probabilities_of_ones_own_halves_are_not_taken_for_logits():
    with pytest.raises(Refusal, match="add up to 1"):
        load("tests.backbones.test_networks:own_ending", image_size=SIZE)


class Binary(nn.Module):
    def __init__(self, two):
        super().__init__()
        self.body, self.fc, self.two = body(), nn.Linear(6, 1), two

    def forward(self, x):
        y = self.fc(self.body(x).mean((2, 3)))
        return torch.cat([-y, y], 1) / 2 if self.two else y


def binary(two: bool = False) -> nn.Module:
    return Binary(two)


def explained(args: tuple, labels: list[int], **settings) -> dict:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 3, SIZE, SIZE), dtype=np.uint8)
    network = pipeline.Network("tests.backbones.test_networks:binary", args=args, image_size=SIZE)
    return pipeline.explain(pixels, labels, network, methods=["grad_cam(norm=minmax)"], targets=["label"], **settings)


def test_one_logit_under_softmax_is_refused_with_a_network_that_says_the_same():
    for labels in ([0, 0], [0, 1]):
        with pytest.raises(Refusal, match=r"one class, whose softmax is 1.*torch.cat\(\[-y, y\], 1\) / 2.*--activation sigmoid"):
            explained((), labels)
    one = explained((), [0, 0], activation="sigmoid")
    y = torch.tensor(np.array(one["predictions"]["logits"].to_pylist(), dtype=np.float32))[:, 0]
    two = {label: explained((("two", "true"),), [label, label]) for label in (0, 1)}
    for label, p in ((0, (-y).sigmoid()), (1, y.sigmoid())):
        torch.testing.assert_close(torch.tensor(two[label]["predictions"]["label_prob"].to_pylist()), p, atol=1e-3, rtol=0)
    low, high = ([stored(row) for row in two[label]["maps"].to_pylist()] for label in (0, 1))
    ones = [stored(row) for row in one["maps"].to_pylist()]
    for a, b, c in zip(low, high, ones, strict=True):
        np.testing.assert_allclose(b, -a, atol=1e-2 * abs(a).max())  # stored in 8 bits
        np.testing.assert_allclose(b, c / 2, atol=1e-2 * abs(b).max())


def test_one_class_is_refused_before_its_folders_are_counted(tmp_path):
    for name in ("with", "without"):
        (tmp_path / "folders" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "folders" / name / "1.png")
    job = Job(
        source=(str(tmp_path / "folders"),),
        backbone="tests.backbones.test_networks:binary",
        out=str(tmp_path / "out"),
        image_size=SIZE,
        workers=0,
    )
    with pytest.raises(Refusal, match="one class, whose softmax is 1"):
        check_job(job)


# the part of the image that a network sees

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
# A family, its arguments, the side of its images, what it sees of it and what its cells lie over.
NARROW = tuple((key, str(value)) for key, value in SMALL.items())
UNSEEN = [
    ("vit_tiny_patch16_224", SMALL, 79, 64, 64),
    ("beit_base_patch16_224", SMALL, 72, 64, 64),
    ("eva02_tiny_patch14_224", SMALL, 83, 70, 70),
    ("vit_small_patch14_reg4_dinov2", SMALL, 83, 70, 70),
    ("convnext_atto", {}, 67, 64, 64),
    ("test_convnext", {}, 79, 76, 64),
    ("resnet18", {}, 79, 79, 79),
    ("vit_tiny_patch16_224", SMALL, 80, 80, 80),
]


def unseen(model: str, args: dict, side: int) -> Backbone:
    return load(f"timm/{model}", args={"pretrained": "false", "num_classes": "5"} | args, image_size=side)


@pytest.mark.parametrize(("model", "args", "side", "seen", "covered"), UNSEEN)
def test_the_grid_lies_over_the_pixels_that_can_change_the_logits(model: str, args: dict, side: int, seen: int, covered: int):
    backbone = unseen(model, args, side)
    with torch.no_grad():
        for value in backbone.cut.parameters():
            if not value.any():
                value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    assert backbone.seen == (None if seen == side else (0, 0, covered, covered))
    x = images(backbone, 1)
    before = backbone.logits(x)
    for axis in (2, 3):
        beyond, last = x.clone(), x.clone()
        beyond.narrow(axis, seen, side - seen).add_(5)
        last.narrow(axis, seen - 1, 1).add_(5)
        assert torch.equal(backbone.logits(beyond), before)
        assert not torch.equal(backbone.logits(last), before)
    cells = torch.rand(2, *backbone.grid, generator=torch.Generator().manual_seed(0))
    drawn = upsample(cells, (side, side), backbone.drawing("bilinear"))
    inside = F.interpolate(cells[:, None], (covered, covered), mode="bilinear")
    torch.testing.assert_close(drawn, F.pad(inside, (0, side - covered, 0, side - covered), mode="replicate")[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(79, 79), (158, 158), (40, 237)])
def test_a_part_is_the_same_part_at_every_size(size: tuple[int, int]):
    cells = torch.zeros(1, 4, 4)
    cells[0, 1, 3] = 1
    drawn = upsample(cells, size, over_part("bilinear", (0, 0, 64, 64), (79, 79)))[0]
    y, x = ((drawn.sum(1 - axis) * (torch.arange(side) + 0.5)).sum() / drawn.sum() / side for axis, side in enumerate(size))
    assert y == pytest.approx(24 / 79, abs=0.01)  # the centre of the second cell of 16 pixels; the last column runs on to the edge
    assert drawn[:, -1].equal(drawn[:, round(60 / 79 * size[1])])
    assert x > 0.7
    numbers = summaries(cells.numpy(), part_of(over_part("bilinear", (0, 0, 64, 64), (79, 79))))
    assert (numbers["peak_x"][0], numbers["peak_y"][0]) == (pytest.approx(56 / 79), pytest.approx(24 / 79))


def test_constant_maps_and_differences_stay_so_beyond_the_part():
    how, a, b = over_part("bilinear", (3, 0, 60, 41), (64, 48)), torch.rand(1, 3, 5), torch.rand(1, 3, 5)
    assert upsample(torch.full((1, 3, 5), 0.7), (64, 48), how).allclose(torch.tensor(0.7))
    torch.testing.assert_close(upsample(a, (64, 48), how) - upsample(b, (64, 48), how), upsample(a - b, (64, 48), how))
    whole = over_part("bilinear", (0, 0, 64, 48), (64, 48))
    torch.testing.assert_close(upsample(a, (64, 48), whole), upsample(a, (64, 48), "bilinear"), atol=1e-6, rtol=0)


class Window(nn.Module):
    """A network that cuts a window out of the image; `clean` takes out what is no number."""

    def __init__(self, window, clean):
        super().__init__()
        self.net, self.window, self.clean = convolutional(), window, clean

    def forward(self, x):
        top, left, bottom, right = self.window
        x = torch.nan_to_num(x) if self.clean else x
        return self.net(x[:, :, top:bottom, left:right])


def window(top: int, left: int, bottom: int, right: int, clean: bool = False) -> nn.Module:
    return Window((top, left, bottom, right), clean)


@pytest.mark.parametrize("part", [(4, 4, 28, 28), (0, 4, 28, 32), (3, 0, 31, 28), (0, 0, 30, 30)])
def test_a_window_inside_a_network_is_what_it_sees(part: tuple[int, int, int, int]):
    args = dict(zip(("top", "left", "bottom", "right"), part, strict=True))
    seen = load("tests.backbones.test_networks:window", args=args, layer="net.0", image_size=SIZE).seen
    top, left, bottom, right = part
    assert seen == (top, left, top + (bottom - top) // 4 * 4, left + (right - left) // 4 * 4)  # in patches of 4
    assert load("tests.backbones.test_networks:window", args=args | {"clean": True}, layer="net.0", image_size=SIZE).seen is None


def test_everything_that_draws_a_map_agrees_on_its_part():
    """Metrics, tables and the masks of methods: on a network that sees 64 of 79 pixels."""
    side, part = 79, (0, 0, 64, 64)
    network = pipeline.Network("timm/vit_tiny_patch16_224", args=(*NARROW, ("pretrained", "false"), ("num_classes", "5")), image_size=side)
    backbone = network.load()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, side, side), dtype=np.uint8)
    boxes = [[[0.0, 0.0, 64 / side, 64 / side]], [[0.0, 0.0, 0.5, 0.4]]]
    methods = ["grad_cam", "score_cam", "opti_cam(steps=3)", "gradient", "raw_attention"]
    found = pipeline.explain(pixels, [0, 3], network, methods=methods, targets=["label"], metrics=["energy", "pointing"], boxes=boxes)
    metrics = {(row["image_id"], row["method"]): row for row in found["metrics"].to_pylist()}
    for row in found["maps"].to_pylist():
        over = METHODS[row["method"].partition("(")[0]].grid == "cells"
        assert row["render"] == ("bilinear:0,0,64,64/79,79" if over else "area")
        S = tables.render(row, (side, side))
        if not over:
            continue
        assert (S[64:] == S[63]).all() and (S[:, 64:] == S[:, 63:64]).all()
        cells = stored(row)
        raw = upsample(torch.from_numpy(cells)[None], (side, side), row["render"])[0].numpy().clip(0)
        raw -= raw.min()
        y, x = np.unravel_index(cells.argmax(), cells.shape)
        assert (row["peak_x"], row["peak_y"]) == (pytest.approx((16 * x + 8) / side), pytest.approx((16 * y + 8) / side))
        inside = geometry.pixels(np.array(boxes[int(row["image_id"].rpartition("/")[2])]), (side, side))
        assert metrics[row["image_id"], row["method"]]["energy"] == pytest.approx(raw[inside].sum() / raw.sum(), abs=0.01)
    batch = SimpleNamespace(forward=SimpleNamespace(A=torch.rand(2, 3, 4, 4)), size=(side, side), backbone=backbone)
    masks = channels(Channels(), batch).paint(torch.tensor([0, 2]), torch.tensor([0, 1]))
    drawn = upsample(batch.forward.A[[0, 1], [0, 2]], (side, side), over_part("bilinear", part, (side, side)))
    torch.testing.assert_close(masks, units(drawn))


def test_only_maps_over_a_part_are_computed_anew():
    backbone = unseen("vit_tiny_patch16_224", SMALL, 79)
    spec, _ = fit_to_backbone(build_spec(["grad_cam", "gradient"], ["label"], metrics=["energy"]), backbone)
    now, then = (outputs_of(spec, network, ()) for network in (backbone, dataclasses.replace(backbone, seen=None)))
    moved = {output.table for output, before in zip(now, then, strict=True) if output.identity != before.identity}
    assert moved == {"maps", "scores"}
    same = [output.table for output, before in zip(now, then, strict=True) if output.identity == before.identity]
    assert {"images", "features", "predictions"} <= {*same}


# files of weights as trainings write them


def plain_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.rand_like(value) if value.is_floating_point() else value for name, value in convolutional().state_dict().items()}


def behind(prefix: str, state: dict, shift: float = 0.0) -> dict[str, torch.Tensor]:
    return {prefix + name: value + shift if value.is_floating_point() else value for name, value in state.items()}


def plain_network() -> nn.Module:
    return convolutional()


FILES: dict[str, Callable] = {
    "lightning": lambda s: {"state_dict": behind("model.", s), "epoch": 3, "optimizer_states": [{}], "pytorch-lightning_version": "2"},
    "net": lambda s: behind("net.", s),
    "criterion beside": lambda s: {"state_dict": behind("network.", s) | {"criterion.weight": torch.ones(4)}},
    "two levels": lambda s: behind("module.model.backbone.", s),
    "student alone": lambda s: {"student": behind("module.", s), "epoch": 1},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}, "param_groups": []}},
    "net nested": lambda s: {"net": s, "acc": 91.5, "epoch": 7},
    "ema": lambda s: {"ema": s, "updates": 9},
    "nested twice": lambda s: {"model": {"state_dict": behind("model.", s)}, "args": "x"},
}
SEVERAL: dict[str, tuple[Callable, str]] = {
    "student and teacher": (
        lambda s: {"student": s, "teacher": behind("", s, 1)},
        r"several state dicts \(student, teacher\).*save one alone",
    ),
    "generator": (lambda s: {"G": s, "D": s}, r"several state dicts \(G, D\)"),
    "prefixes": (lambda s: behind("student.", s) | behind("teacher.", s, 1), r"2 times, behind student., teacher.; save one alone"),
    "lightning with ema": (
        lambda s: {"state_dict": behind("model.", s) | behind("ema.module.", s, 1)},
        r"2 times, behind model., ema.module.",
    ),
    "another network": (lambda s: behind("model.", {f"{name}s": value for name, value in s.items()}), "do not fit"),
    "part of it": (lambda s: behind("model.", dict(list(s.items())[:-1])), "missing"),
    "other classes": (lambda s: behind("model.", s | {"3.weight": torch.ones(7, 6), "3.bias": torch.ones(7)}), "weights have 7 classes"),
}


@pytest.mark.parametrize("kind", FILES)
def test_weights_are_found_behind_one_prefix_or_key(kind: str, tmp_path):
    state = plain_state()
    torch.save(FILES[kind](state), tmp_path / "weights.ckpt")
    network = load("tests.backbones.test_networks:plain_network", weights=str(tmp_path / "weights.ckpt"), image_size=SIZE).network
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items() if value.is_floating_point())


@pytest.mark.parametrize("kind", SEVERAL)
def test_weights_behind_several_are_refused_with_the_way_out(kind: str, tmp_path):
    make, message = SEVERAL[kind]
    torch.save(make(plain_state()), tmp_path / "weights.ckpt")
    with pytest.raises(Refusal, match=message) as refused:
        load("tests.backbones.test_networks:plain_network", weights=str(tmp_path / "weights.ckpt"), image_size=SIZE)
    assert "\n" not in str(refused.value)


def test_a_backbone_behind_a_prefix_loses_the_classifier_beside_it(tmp_path):
    import timm

    whole = timm.create_model("test_resnet", num_classes=7)
    torch.save({"state_dict": behind("model.", whole.state_dict())}, tmp_path / "whole.ckpt")
    backbone = load("timm/test_resnet", weights=str(tmp_path / "whole.ckpt"), args={"num_classes": "0"})
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in backbone.network.state_dict().items())
