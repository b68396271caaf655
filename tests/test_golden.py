"""Stored answers stay answers: the identities, seeds and bits that runs on disk were made with, pinned.

A value that changes here makes every user compute everything anew. Where that is meant, raise the version that says so (of a method, of
the tables) and pin the new value with the reason in the commit. Weights are whole-number arithmetic, so no processor moves a digest.
"""

import dataclasses
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import pipeline
from pipeline.backbones.cutting import strides
from pipeline.backbones.libraries import checkpoint, timm_models
from pipeline.backbones.network import Network
from pipeline.backbones.weights import weights_digest
from pipeline.datasets import creatures
from pipeline.datasets.layouts import Record
from pipeline.datasets.packing.sample import Item
from pipeline.datasets.packing.shard import fingerprint
from pipeline.plan.fit import fit_to_backbone, with_class_sets
from pipeline.plan.outputs import outputs_of
from pipeline.plan.task import Task
from pipeline.sources import Index, Shard
from pipeline.sources.labels import Classes
from pipeline.spec.explain_spec import build_spec
from pipeline.spec.output import Output
from pipeline.tables import files
from pipeline.tables.identity import digest, seed_of
from pipeline.train.data import ImageSpec
from tests import tiny

PINNED = json.loads((Path(__file__).parent / "golden.json").read_text())
CREATURE = {"num_classes": "12", "norm_layer": "groupnorm1", "output_stride": "8", "mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25"}
PHRASES = (("a wren", ()), ("a bird", ()))
MODULES = "tests.test_golden"
SHARD = Shard("webdataset", "val/00000.tar", ("/somewhere/val/00000.tar",), 1000)


def filled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every floating tensor replaced by multiples of 1/1024 that depend on its name and place alone."""
    made = {}
    for name, value in state.items():
        if value.is_floating_point():
            numbers = (torch.arange(value.numel()) * 7919 + seed_of(name) % 1009) % 257 - 128
            value = (numbers.float() / 1024 + (1 if "var" in name else 0)).reshape(value.shape)
        made[name] = value.contiguous()
    return made


def exact() -> nn.Module:
    """A network whose float32 sums have one rounding at most: its maps are the same bits on every processor."""
    network = nn.Sequential(nn.Conv2d(3, 2, 4, 4, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    with torch.no_grad():
        for part in (network[0], network[4]):
            part.weight.zero_()
        network[0].weight[0, 0, 1, 1], network[0].weight[1, 2, 2, 2] = 1.0, 0.5
        network[4].weight.copy_(torch.tensor([[1.0, 0.25], [0.5, 1.0], [-1.0, 2.0]]))
        network[4].bias.copy_(torch.tensor([0.0, 0.5, -0.5]))
    return network


def own() -> nn.Module:
    network = tiny.build()
    network.load_state_dict(filled(network.state_dict()))
    return network


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, Network]:
    """One of each kind of network, by a name of its own."""
    import open_clip

    folder = tmp_path_factory.mktemp("golden")
    tiny.clip(folder, "golden-clip")
    clip = open_clip.create_model("golden-clip", pretrained=None).state_dict()
    save_file(filled(clip), folder / "clip.safetensors")
    vit = timm_models.build("test_vit", {"num_classes": 4}, pretrained=False, size=None, seed=0)
    save_file(filled(vit.state_dict()), folder / "vit.safetensors")
    recipe, state = trained()
    files.write_bytes("memory://golden/trained.safetensors", checkpoint.encode(recipe, state))  # its address is part of its name
    return {
        "creatures": Network(f"timm/{creatures.NAME}", str(creatures.weights_path()), tuple(CREATURE.items()), None, creatures.IMAGE_SIZE),
        "vit": Network("timm/test_vit", str(folder / "vit.safetensors"), (("num_classes", "4"),), "blocks.2.norm1"),
        "open_clip": Network("open_clip/golden-clip", str(folder / "clip.safetensors"), phrases=PHRASES),
        "checkpoint": Network("train/memory://golden/trained.safetensors"),
        "own": Network(f"{MODULES}:own", image_size=32),
    }


def trained() -> tuple[checkpoint.Recipe, dict[str, torch.Tensor]]:
    """A CALM network as a training leaves it."""
    recipe = checkpoint.Recipe("test_resnet", (32, 32), 8, "calm_em", 3, {"norm_layer": "groupnorm1"}, classes=("a", "b", "c"))
    trunk, _ = strides.trunk(timm_models.build("test_resnet", recipe.args, pretrained=False, size=recipe.size, seed=0), recipe.size, 8)
    with torch.no_grad():
        channels = trunk(torch.zeros(1, 3, 32, 32)).shape[1]
    headed = checkpoint.headed(trunk, channels, recipe)
    headed.load_state_dict(filled(headed.state_dict()))
    recipe = dataclasses.replace(recipe, trunk=weights_digest(headed.trunk.state_dict()))
    return recipe, headed.state_dict()


@pytest.fixture(scope="module")
def jobs(networks) -> dict[str, tuple[str, dict[str, Output]]]:
    """By network, its identity and every output of a job that asks for everything, by what the job calls it."""
    found = {}
    for name, network in networks.items():
        backbone = network.load()
        targets = ["predicted", "label", "finer(T=1)", "f08=finer(gamma=0.8,T=1)", "class:1", "set=class_set:some"]
        methods = ["all", "short=rise(masks=40)", "glas(preset=ilsvrc)"]
        if name == "open_clip":  # without classes: embeddings of texts are sums, whose last bit is the processor's
            targets = ["text:a wren", "text_contrast:a wren|a bird"]
        metrics = ["all", "selectivity", "bbox_study", "max_sensitivity", "coarse=pxap(bins=100)"]
        metrics += ["sanity"] * (name != "own")  # which has four layers, one less than sanity draws anew
        spec = build_spec(methods, targets, metrics=metrics, select="predicted <> label", seed=3)
        fit, _ = fit_to_backbone(with_class_sets(spec, {"some": (0, 1)}), backbone)
        outputs = {" ".join(r.alias for r in (o.metric, o.method, o.target) if r) or o.table: o for o in outputs_of(fit, backbone, ())}
        found[name] = backbone.identity, {f"{key} ({output.table})": output for key, output in outputs.items()}
    return found


@pytest.mark.parametrize("name", ["creatures", "vit", "open_clip", "checkpoint", "own"])
def test_the_outputs_of_a_job(jobs, name):
    identity, outputs = jobs[name]
    some = ("images", "features", "predictions", "layer_cam", "gem", "calm")
    assert {"backbone": identity, **{key: o.identity for key, o in outputs.items() if key.split()[0] in some}} == PINNED["cells"][name]


def test_the_outputs_of_every_method_and_metric(jobs):
    """An output of a method and a metric counts under the one that was pinned later, so that a new one moves no other's digest."""
    pinned, found = PINNED["named"], defaultdict(list)
    place = {name: number for number, name in enumerate(pinned)}
    for network, (_, outputs) in jobs.items():
        for key, output in outputs.items():
            names = [choice.alias for choice in (output.method, output.metric) if choice]
            if names:
                found[max(names, key=lambda name: (place.get(name, len(place)), name))].append([network, key, output.identity])
    digests = {name: digest(sorted(found[name])) for name in sorted(found)}
    moved = {name: digests.get(name) for name in pinned if digests.get(name) != pinned[name]}
    assert not moved, f"users would compute these anew; where that is meant, raise the version and pin in tests/golden.json: {moved}"
    new = {name: digests[name] for name in digests if name not in pinned}
    assert not new, f"new methods or metrics; append to `named`, at the end of tests/golden.json: {json.dumps(new)}"


def test_a_task_and_its_cells():
    task = Task.of(SHARD, Index("ab" * 16, 100, True, ()), 64, 100)
    assert [SHARD.identity("content"), task.id, task.output_identity("cd" * 16)] == PINNED["task"]


def test_the_seeds_of_everything_drawn():
    words = [("bernoulli", 8000, 7, 0.5), ("lime", "key"), ("ties", "key"), ("removed", "key"), ("noisy", "key"), (0, "held out", "key")]
    words += [(0, "crop", 3, "key"), ("group", "key"), (0, "random", "key", "digest")]
    assert [seed_of(*each) for each in words] == PINNED["seeds"]


def test_a_training_s_recipe_and_its_images():
    recipe, _ = trained()
    images = ImageSpec(
        ((SHARD, Index("ab" * 16, 100, True, ()), False),), Classes(3, ("a", "b", "c")), (32, 32), "bilinear", True, "train", 0.1, 0
    )
    assert [digest(recipe.to_json()), images.identity] == PINNED["training"]


def test_a_packed_shard_s_fingerprint():
    record = Record("images/a.jpg", 1, "train", "images.txt:1")
    assert fingerprint([Item("a", "wren", record)], [[["12", "34"]]], "cub", None) == PINNED["pack"]


def test_the_bits_of_maps():
    """Where arithmetic is exact the map is; where it is drawn, the generator's bits are the same everywhere."""
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    network = pipeline.Network(f"{MODULES}:exact", args=(("mean", "0,0,0"), ("std", "1,1,1")), image_size=16)
    tables = pipeline.explain(images, [0, 2], network, methods=["grad_cam", "layer_cam", "random"], targets=["label", "second"])
    rows = tables["maps"].select(["image_id", "method", "target", "class_id", "height", "width", "map", "map_min", "map_max"])
    assert digest(rows.to_pylist()) == PINNED["maps"]
