"""Methods of the user's own: a file, a module or an installed package, and captum's attributions in a line each."""

import json
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pipeline
from jobs import explain, score
from pipeline import backbones, tables
from pipeline.engine.runners import captum as captums
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.plan.fit import fit_to_backbone
from pipeline.plan.outputs import outputs_of
from pipeline.refusal import Refusal
from pipeline.sources.images import DecodedImages, ImageRow
from pipeline.spec import plugins
from pipeline.spec.explain_spec import build_spec
from pipeline.stages.explainer import Explainer
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions
from tests import tiny
from tests.conditioning import is_stored, rounding, widened
from tests.jobs import content, job
from tests.registries import registries
from tests.shards import dataset
from tests.untouched import assert_untouched

OWN = str(Path(__file__).parents[1] / "own.py")
SIZE = 64


@pytest.fixture(autouse=True)
def _registries():
    with registries():
        yield


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 3, SIZE, SIZE), dtype=np.uint8)


def maps(tables, method):
    assert tables["errors"].num_rows == 0, tables["errors"].to_pylist()
    rows = [row for row in tables["maps"].to_pylist() if row["method"] == method]
    return np.stack([row["map_min"] + np.array(row["map"]) / 255 * (row["map_max"] - row["map_min"]) for row in rows])


def written(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("name", [OWN, "tests.own"])
def test_a_file_and_a_module_explain_and_score_like_the_built_in_ones(images, name):
    asked = ["mean_cam", "plain=mean_cam(share=0)", "family:captum", "cam"]
    network = pipeline.Network("tests.tiny:build", image_size=SIZE)
    tables = pipeline.explain(images, range(5), network, asked, metrics=["peak"], plugins=[name])
    assert {row["method"] for row in tables["maps"].to_pylist()} >= {"mean_cam", "plain", "deep_lift", "ig", "cam"}
    assert set(tables["metrics"].column("peak").is_valid().to_pylist()) == {True}
    wide = widened(network.load())
    is_stored(maps(tables, "plain"), *rounding(lambda: wide.trunk(wide.prepare(torch.from_numpy(images)))[0].mean(1).relu()))


def test_an_installed_package_announces_its_methods(monkeypatch, capsys):
    entry = EntryPoint("mine", "tests.own", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == plugins.GROUP else [])
    assert build_spec(["mean_cam"], ["label"]).plugins[0].name == "tests.own"
    with pytest.raises(SystemExit):
        explain.main(["--help"])
    assert "mean_cam (norm=relu|minmax, drawn=bilinear|bicubic, share=0.5)" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_the_main_job_computes_a_changed_plugin_again_and_nothing_else(tmp_path):
    source, code = dataset(tmp_path / "shards"), Path(OWN).read_text()
    mine = written(tmp_path, code)

    def run(**changes):
        asked = {"methods": ("mean_cam", "ig", "cam"), "targets": ("label",), "metrics": ("peak", "energy"), "plugins": (mine,)}
        before = set(tmp_path.glob("out/tasks/**/receipt.json"))
        outcome = explain.run(job(source, tmp_path / "out", **{**asked, **changes}))
        assert not outcome.counts["errors"]
        receipts = [json.loads(path.read_text()) for path in set(tmp_path.glob("out/tasks/**/receipt.json")) - before]
        return outcome, sum(len(receipt["cells"]) for receipt in receipts)

    first, _ = run()
    same, more = run()
    assert (same.run_id, more) == (first.run_id, 0)
    written(tmp_path, code + "\n# a change, if of no consequence\n")
    changed, more = run()
    # mean_cam and ig with both of their metrics, and `peak`, whose code is in the file as well, of cam, fake_cam and random
    assert changed.new and more == 6 * (2 * 3 + 3)
    found = tables.open(str(tmp_path / "out")).sql("SELECT DISTINCT method FROM maps").to_pylist()
    assert {row["method"] for row in found} == {"mean_cam", "ig", "cam", "fake_cam", "random"}


def test_a_run_with_plugins_is_scored_and_knows_where_they_are(tmp_path):
    source, mine = dataset(tmp_path / "shards"), written(tmp_path, Path(OWN).read_text())
    explain.run(job(source, tmp_path / "out", methods=("mean_cam", "cam"), targets=("label",), plugins=(mine,)))

    def more(*flags):
        with registries():  # as a process of its own, which has loaded no plugin yet
            for table in (METHODS, METRICS, plugins._INSTALLED):
                for name in {"mean_cam", "deep_lift", "ig", "peak", mine} & set(table):
                    del table[name]
            return score.main(["--out", str(tmp_path / "out"), "--metrics", *flags])

    assert more("energy", "peak") == 0
    assert more("f1", "--recompute") == 0
    found = tables.open(str(tmp_path / "out")).sql("SELECT method, energy, peak, f1 FROM metrics").to_pylist()
    assert {row["method"] for row in found} == {"mean_cam", "cam", "fake_cam", "random"}
    assert all(any(row[name] is not None for row in found) for name in ("energy", "peak", "f1"))
    moved = shutil.move(mine, tmp_path / "elsewhere.py")
    assert more("pointing") == 2
    assert more("pointing", "--plugins", str(moved)) == 0


def test_a_plugin_is_a_flag_of_the_command_line(tmp_path):
    command = ["--source", dataset(tmp_path / "shards"), "--backbone", "tests.tiny:build", "--image-size", "64", "--workers", "0"]
    command += ["--methods", "mean_cam", "deep_lift", "--method-args", "mean_cam.share=0.1", "--out", str(tmp_path / "out")]
    assert explain.main(command) == 2
    assert explain.main([*command, "--plugins", OWN]) == 0
    assert {row["method"] for row in content(tmp_path / "out")["maps"]} == {"mean_cam", "deep_lift"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("from pipeline.families import cam\n@cam\ndef new_cam(A): return A\n@cam\ndef grad_cam(A): return A\n", "'grad_cam'; rename one"),
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def new_cam(A): return A\n", "has no method"),
        ("def new_cam(A) return A\n", "SyntaxError"),
        ("from pipeline.families import cam\n@cam\ndef new_cam(A, colour): return A\n", "colour"),
        (None, "cannot be read"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_refused_in_one_line_and_leaves_nothing(tmp_path, code, words):
    before, path = dict(METHODS), str(tmp_path / "mine.py")
    if code is not None:
        written(tmp_path, code)
    with pytest.raises(Refusal, match="--plugins .*mine.py") as refused:
        build_spec(["cam"], ["label"], plugins=[path])
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert before == METHODS


def test_a_module_that_is_not_there_and_two_files_with_one_name_are_refused(tmp_path):
    with pytest.raises(Refusal, match="no_such_module"):
        build_spec(["cam"], ["label"], plugins=["no_such_module"])
    code = "from pipeline.families import cam\n@cam\ndef mine(A): return A.{}(1)\n"
    paths = [written(tmp_path, code.format(how), f"{how}.py") for how in ("sum", "mean")]
    with pytest.raises(Refusal, match="two entries are named 'mine'"):
        build_spec(["mine"], ["label"], plugins=paths)


def test_a_plugin_installs_itself_where_it_arrives():
    spec = build_spec(["mean_cam"], ["label"], plugins=[OWN, OWN])
    sent = pickle.dumps(spec)
    for table, brought in ((METHODS, spec.plugins[0].methods), (METRICS, spec.plugins[0].metrics)):
        for name in brought:
            del table[name]
    plugins._INSTALLED.clear()
    assert pickle.loads(sent) == spec
    assert "deep_lift" in METHODS


def test_in_a_worker_the_plugin_of_an_earlier_job_gives_way(tmp_path):
    """One process may serve two jobs whose plugins share a name; each job gets its own, and what else there is stays."""
    code = "from pipeline.families import cam\n@cam\ndef mine(A): return A.{}(1)\n@cam\ndef {}(A): return A[:, 0]\n"
    sent = []
    for how, other in (("sum", "first"), ("mean", "second")):
        path = written(tmp_path, code.format(how, other), f"{how}.py")
        with registries():
            sent.append((other, pickle.dumps(build_spec(["mine"], ["label"], plugins=[path]))))
    made = []
    for other, spec in (*sent, sent[0]):
        pickle.loads(spec)
        made.append((METHODS["mine"].map.__module__, METHODS[other].map.__module__))
    assert made[0] == made[2] != made[1]
    assert all(mine == others for mine, others in made)
    assert {"first", "second", "grad_cam"} <= METHODS.keys()


def test_a_worker_with_another_version_of_a_module_says_so():
    sent = pickle.dumps(build_spec(["mean_cam"], ["label"], plugins=["tests.own"]))
    here = plugins._INSTALLED["tests.own"]
    plugins._INSTALLED["tests.own"] = here._replace(plugin=replace(here.plugin, digest="other"))
    with pytest.raises(Refusal, match="another version"):
        pickle.loads(sent)


@pytest.fixture
def network():
    return tiny.build(curved=True)


def attributed(backbone, images, method, target="label", part=slice(None), tally=None, batch_size=None):
    """Float maps [B H W] at the network's own size."""
    spec, _ = fit_to_backbone(build_spec([method], [target], map_size=SIZE), backbone)
    rows = [ImageRow(image_id=f"{i}", key=f"{i}", label=i) for i in range(len(images))]
    pictures = DecodedImages(images, rows, [f"{i}" for i in range(len(images))])[part]
    answers = Explainer(backbone, spec, batch_size=batch_size)(pictures, outputs_of(spec, backbone, ()), tally)
    tables = {cell.table: rows for cell, rows, _ in answers} | {"errors": answers[-1][2]}
    return maps(tables, answers[-1][0].method.alias).reshape(-1, SIZE, SIZE)


def deep_lift(network, backbone, images, colours="sum"):
    """captum's own maps in double precision, and how far single precision may be from them."""
    from captum.attr import DeepLift

    network, prepare = network.eval().double(), backbone.prepare

    def maps():
        found = DeepLift(network).attribute(prepare(torch.from_numpy(images)).requires_grad_(), target=torch.arange(5)).detach()
        return found.sum(1).relu() if colours == "sum" else found.abs().amax(1)

    return rounding(maps)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("colours", ["sum", "magnitude"])
def test_deep_lift_in_one_line_is_captum_s_own(images, network, colours):
    build_spec(["cam"], ["label"], plugins=[OWN])
    backbone = backbones.load("tests.tiny:curved", image_size=SIZE)
    is_stored(attributed(backbone, images, f"deep_lift(colours={colours})"), *deep_lift(network, backbone, images, colours))


def test_attributions_of_a_layer_are_drawn_at_the_input_s_size(images, network):
    from captum.attr import LayerGradCam

    def last(module):
        return [part for part in module.modules() if isinstance(part, nn.Conv2d)][-1]

    METHODS["of_a_layer"] = captums.Attribution("of_a_layer", lambda model: LayerGradCam(model, last(model.network)))
    backbone = backbones.load("tests.tiny:curved", image_size=SIZE)
    network = network.eval().double()

    def theirs():
        x = backbone.prepare(torch.from_numpy(images))
        found = LayerGradCam(network, last(network)).attribute(x, target=torch.arange(5)).detach().relu()
        return nn.functional.interpolate(found, (SIZE, SIZE), mode="bilinear")[:, 0]

    exact, slack = rounding(theirs)
    assert exact.max() > 0
    is_stored(attributed(backbone, images, "of_a_layer"), exact, slack)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_image_keeps_its_own_direction_however_captum_repeats_it(images, network):
    """`finer` differs from image to image; captum's steps and the rows of a pass must not mix them up."""
    from captum.attr import IntegratedGradients

    build_spec(["cam"], ["label"], plugins=[OWN])
    backbone, tally = backbones.load("tests.tiny:curved", image_size=SIZE), Counter()
    network = network.eval().double()

    def theirs():
        x = backbone.prepare(torch.from_numpy(images))
        directions = TARGETS["finer"].explain(Predictions(network(x), torch.arange(5))).directions[:, 0]
        each = [IntegratedGradients(lambda x, d=d: network(x) @ d).attribute(x[i : i + 1], n_steps=8) for i, d in enumerate(directions)]
        return torch.cat(each).sum(1).relu().detach()

    is_stored(attributed(backbone, images, "ig", "finer", tally=tally), *rounding(theirs))
    assert (tally["ig", "forwards"], tally["ig", "backwards"]) == (5 * 8, 5 * 8)


def test_what_draws_follows_each_image_s_seed_and_must_say_so(tmp_path, images):
    code = (
        "import torch\nfrom captum.attr import NoiseTunnel, Saliency\nfrom pipeline.families import captum_method\n"
        "captum_method('tunnel', lambda model: NoiseTunnel(Saliency(model)), nt_samples=3{})\n"
    )
    backbone = backbones.load("tests.tiny:curved", image_size=SIZE)
    build_spec(["cam"], ["label"], plugins=[written(tmp_path, code.format(""))])
    with pytest.raises(Refusal, match="draws=True"):
        attributed(backbone, images, "tunnel")
    build_spec(["cam"], ["label"], plugins=[written(tmp_path, code.format(", draws=True"))])
    state, whole = torch.get_rng_state(), attributed(backbone, images, "tunnel")
    assert np.array_equal(attributed(backbone, images, "tunnel"), whole)
    alone = np.concatenate([attributed(backbone, images, "tunnel", part=slice(i, i + 1)) for i in range(5)])
    assert np.array_equal(alone, whole)
    assert torch.equal(state, torch.get_rng_state()), "a user's own generator is where it was"


class Forgetful:
    """An attribution that leaves a hook on the network and a gradient on its weights, and asks for one kind of answer or fails."""

    def __init__(self, model, how):
        self.model, self.how = model, how

    def attribute(self, x, additional_forward_args):
        for module in self.model.network.modules():
            module.register_forward_hook(lambda *given: None)
        self.model(x, *additional_forward_args).sum().backward()
        if self.how == "fails":
            raise ValueError("so\nit ends")
        return x.mean(1) if self.how == "shape" else x.grad


@pytest.mark.parametrize(("how", "words"), [("fails", "ValueError: so it ends"), ("shape", r"\[1, 64, 64\]"), ("well", None)])
def test_whatever_captum_does_to_the_network_ends_with_the_copy(images, how, words):
    METHODS["forgetful"] = captums.Attribution("forgetful", lambda model: Forgetful(model, how))
    backbone = backbones.load("tests.tiny:curved", image_size=SIZE)
    if words:
        with pytest.raises(Refusal, match=words):
            attributed(backbone, images, "forgetful")
    else:
        attributed(backbone, images, "forgetful")
    assert_untouched(backbone.cut)


class Both(nn.Module):
    """A network of one's own that brings its trunk and head."""

    def __init__(self):
        super().__init__()
        network = tiny.build()
        self.below, self.above = network[:6], network[6:]

    def trunk(self, x):
        return self.below(x), ()

    def head(self, A, rest):
        return self.above(A)


@pytest.mark.parametrize("hold", [lambda both: both, lambda both: type("Held", (), {"identity": "held"})()], ids=["module", "object"])
def test_a_network_with_its_own_trunk_and_head_is_attributed_too(images, hold, monkeypatch):
    def build():
        both = Both()
        held = hold(both)
        if held is not both:
            held.below, held.above = both.below, both.above
            held.trunk, held.head = both.trunk, both.head
        return held

    monkeypatch.setattr("tests.tiny.own", build, raising=False)
    build_spec(["cam"], ["label"], plugins=[OWN])
    own = backbones.load("tests.tiny:own", image_size=SIZE)
    is_stored(attributed(own, images, "deep_lift"), *deep_lift(tiny.build(), own, images))
