"""A library of networks is one file."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline
from pipeline.backbones import libraries, linear_probe, load
from pipeline.backbones.libraries import all_libraries, library_of
from pipeline.refusal import Refusal

TOY = """
    import torch
    from torch import nn

    from pipeline.backbones.libraries.registry import BuildOptions, Library
    from pipeline.backbones.weights import weights_digest, with_weights


    def build(model: str, options: BuildOptions) -> nn.Module:
        channels, classes = int(model), options.args.get("num_classes", 5)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            layers = [nn.Conv2d(3, channels, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            network = nn.Sequential(*layers, *([nn.Linear(channels, classes)] if classes else []))
        network.num_classes, network.pretrained_cfg = classes, {"input_size": (3, *(options.size or (16, 16)))}
        return with_weights(network, options.weights)


    def identity_fields(name, network, options, cut) -> dict[str, object]:
        return {"network": name, "args": options.args, "weights": weights_digest(network.state_dict())}


    LIBRARY = Library(prefix="toy/", form="toy/<channels>", build=build, identity_fields=identity_fields, takes_img_size=True)
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch) -> Path:
    """The file of a new library, in the folder of libraries."""
    file = tmp_path / "toy_models.py"
    file.write_text(textwrap.dedent(TOY))
    monkeypatch.setattr(libraries, "__path__", [*libraries.__path__, str(tmp_path)])
    yield file
    sys.modules.pop(f"{libraries.__name__}.toy_models", None)


def test_the_networks_of_a_new_library_are_loaded_and_cut(toy):
    backbone = load("toy/6", args={"num_classes": "4", "img_size": "16,24", "std": "0.5"})
    assert (backbone.num_classes, backbone.channels, backbone.grid, backbone.layer) == (4, 6, (4, 6), "1")
    assert backbone.prepare.std == (0.5, 0.5, 0.5)
    x = torch.rand(3, 3, 16, 24)
    torch.testing.assert_close(backbone.head(*backbone.trunk(x)), backbone.network(x))
    assert backbone.device == torch.device("cpu")


def test_the_networks_of_a_new_library_have_an_identity(toy):
    identities = [load("toy/6", **options).identity for options in ({}, {"seed": 1}, {"args": {"num_classes": "4"}}, {"image_size": 24})]
    assert len({*identities, load("toy/7").identity}) == 5
    assert load("toy/6").identity == identities[0]


def test_the_networks_of_a_new_library_are_explained(toy):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    tables = pipeline.explain(images, [0, 2], pipeline.Network("toy/6"), methods=["grad_cam"], targets=["label"])
    assert tables["maps"].num_rows == 2


def test_the_networks_of_a_new_library_take_a_probe(toy, tmp_path: Path):
    headless = load("toy/6", args=linear_probe.pooling("toy/6", ""))
    probe = linear_probe.Probe(torch.randn(3, 6), torch.zeros(3), ("a", "b", "c"), "", dict(headless.origin), {})
    linear_probe.write(url := str(tmp_path / "probe.safetensors"), probe)
    backbone = load("toy/6", probe=url)
    x = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(backbone.logits(x), headless.logits(x) @ probe.weight.T)
    assert backbone.classes == ("a", "b", "c")
    with pytest.raises(Refusal, match="another network: network was toy/6, is toy/7"):
        load("toy/7", probe=url)


def test_a_new_library_is_named_where_a_backbone_is_unknown(toy):
    with pytest.raises(Refusal, match="unknown backbone 'resnet50'; write timm/resnet50, or .*toy/<channels>.* or my_module:build"):
        load("resnet50")


def test_every_library_is_found_by_its_prefix_and_one_takes_all_other_names():
    prefixes = [library.prefix for library in all_libraries()]
    assert sorted(prefixes) == ["", "open_clip/", "timm/", "train/"]
    assert all(library_of(f"{library.prefix}a:b") is library for library in all_libraries())


@pytest.mark.parametrize("name", ["timm/test_resnet", "train/a.safetensors", "my_module:build"])
def test_texts_are_for_libraries_that_read_them(name: str):
    with pytest.raises(Refusal, match="--text-classes needs a text tower"):
        load(name, text_classes=("a wren",))
