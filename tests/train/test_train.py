"""Training: what decides it and what does not, what a kill costs, what a checkpoint promises."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import binomtest

import pipeline
from jobs import explain
from jobs import train as job_train
from pipeline import backbones, tables
from pipeline.backbones.libraries import checkpoint
from pipeline.refusal import Refusal
from pipeline.spec.job import Job
from pipeline.storage import filesystem, read_bytes
from pipeline.tables.files import write_bytes
from pipeline.train import descent, loop
from pipeline.train.check import CheckedTraining, check_training, initial_network
from pipeline.train.data import Images, load_images
from pipeline.train.job import Training
from pipeline.train.team import Team
from pipeline.train.trial import LearningRateTrial
from tests.conditioning import FACTOR, UNIT, Double, near, slack
from tests.jobs import training
from tests.shards import dataset, good, tar_bytes

ROOT = Path(__file__).parents[2]
SIZE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 images of five classes, and where decoded ones may lie."""
    folder = tmp_path_factory.mktemp("data")
    return dataset(folder / "shards", shards=2, images=12), folder / "cache"


def trained(data, out, **changes) -> tuple[dict, dict[str, torch.Tensor]]:
    """What training.json says, and the network's tensors."""
    told = job_train.run(training(data, out, **changes))
    return told, load_file(Path(out) / "checkpoint.safetensors")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def losses(told: dict) -> list:
    return [[row[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")] for row in told["epochs"]]


@pytest.fixture(scope="module", params=["plain", "calm_em", "calm_ml"])
def undisturbed(request, data, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    return request.param, out, *trained(data, out, head=request.param)


def test_a_training_ends_in_a_table_and_a_network_that_explains(undisturbed):
    head, out, told, _ = undisturbed
    assert [row["epoch"] for row in told["epochs"]] == [1, 2]
    assert told["images"]["train"] + told["images"]["val"] == 24
    backbone = backbones.load(f"train/{out}/checkpoint.safetensors")
    assert (backbone.num_classes, backbone.grid, backbone.image_size) == (5, (4, 4), (SIZE, SIZE))
    assert (backbone.branches is None) == (head == "plain")
    assert (backbone.pooled_linear is None) == (head != "plain")
    images = np.random.default_rng(0).integers(0, 256, (2, 3, SIZE, SIZE), dtype=np.uint8)
    methods = ["grad_cam", "gradient", "integrated_gradients(form=calm,steps=3)", "smooth_grad(samples=2)", "var_grad(samples=2)"]
    found = pipeline.explain(
        images, [0, 4], backbone, [*methods, "cam" if head == "plain" else "calm"], ["label", "finer", "class_set:all"]
    )
    assert found["errors"].num_rows == 0
    assert found["maps"].num_rows == 6 * 3 * 2


def test_the_bound_of_em_stays_above_the_marginal_loss_and_both_fall(undisturbed, data, tmp_path):
    head, _, told, _ = undisturbed
    if head == "calm_em":
        told, _ = trained(data, tmp_path, head=head, epochs=8, lr=(0.03,))
        assert all(row["loss"] > row["nll"] for row in told["epochs"])
        assert all(told["epochs"][-1][name] < told["epochs"][0][name] for name in ("loss", "nll"))
    else:
        assert [row["loss"] for row in told["epochs"]] == near([row["nll"] for row in told["epochs"]], 32, UNIT, size=1)


def test_the_network_that_explains_is_the_one_that_was_judged(undisturbed, data):
    _, out, told, _ = undisturbed
    checked = check_training(training(data, out))
    images = load_images(checked.image_spec, checked.job.cache, Team())
    backbone = backbones.load(f"train/{out}/checkpoint.safetensors")
    rows = images.rows["val"]
    x, labels = backbone.prepare(torch.from_numpy(images.inputs[rows])), torch.from_numpy(images.labels[rows])

    def losses(backbone, x):
        return torch.nn.functional.cross_entropy(backbone.logits(x), labels, reduction="none")

    assert losses(backbone, x).mean().item() == pytest.approx(told["val_loss"], abs=2 * slack(losses, backbone, x).mean().item())


def test_the_same_training_ends_in_the_same_bits(undisturbed, data, tmp_path):
    head, _, told, network = undisturbed
    again, other = trained(data, tmp_path, head=head)
    assert losses(again) == losses(told)
    assert same(other, network)


def test_a_restart_goes_on_where_it_was_left(undisturbed, data, tmp_path):
    """One epoch, then the job again with two: equal to two at once. And a third start computes nothing."""
    head, _, told, network = undisturbed
    trained(data, tmp_path, head=head, epochs=1)
    resumed, other = trained(data, tmp_path, head=head)
    assert losses(resumed) == losses(told)
    assert same(other, network)
    again, _ = trained(data, tmp_path, head=head)
    assert again["epochs"] == resumed["epochs"]


def test_the_keys_of_a_state_file_stay_so_that_older_ones_are_read(finished):
    [path] = (finished / "state").iterdir()
    _, tensors, metadata = checkpoint.decode(read_bytes(str(path)), "it")
    assert {"epochs", "decides", "diverged"} <= metadata.keys()
    assert set(json.loads(metadata["decides"])) == {
        *("batch_size", "head_lr_factor", "optimiser", "momentum", "weight_decay", "schedule", "decay_every", "clip", "freeze"),
        *("head_epochs", "head_lr", "seed", "frozen_norm", "images", "start", "lr"),
    }
    assert {name.partition(".")[0] for name in tensors} == {"network", "memory"}
    assert set(json.loads(metadata["epochs"])[0]) == {
        *("lr", "epoch", "trained", "loss", "nll", "accuracy", "val_loss", "val_accuracy", "seconds"),
    }


SCRATCH = {"optimiser": "adamw", "schedule": "cycle", "clip": 1.0, "weight_decay": 0.05, "lr": (0.002,)}


def test_a_training_from_random_weights_goes_on_where_it_was_left(data, tmp_path, monkeypatch):
    """AdamW's two memories and its count of steps, and the place in the cycle."""
    told, network = trained(data, tmp_path / "whole", **SCRATCH)
    run_epoch = LearningRateTrial.run_epoch

    def lost(trial, epoch):
        if epoch == 1:
            raise OSError("lost")
        run_epoch(trial, epoch)

    monkeypatch.setattr(LearningRateTrial, "run_epoch", lost)
    with pytest.raises(OSError, match="lost"):
        trained(data, tmp_path / "lost", **SCRATCH)
    monkeypatch.setattr(LearningRateTrial, "run_epoch", run_epoch)
    resumed, other = trained(data, tmp_path / "lost", **SCRATCH)
    assert losses(resumed) == losses(told)
    assert same(other, network)
    with pytest.raises(Refusal, match="epochs 2, not 3"):  # another cycle
        trained(data, tmp_path / "lost", **SCRATCH, epochs=3)


def test_the_rate_of_a_cycle_is_torchs_and_ends_at_zero(data, tmp_path):
    job = training(data, tmp_path, schedule="cycle", epochs=10)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    kept = {"pct_start": (0.2 * 1000 + 1) / 1000, "div_factor": 25, "final_div_factor": 1e12, "cycle_momentum": False}
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=1000, **kept)
    steepest = np.pi / 2 / 200  # of one step, halfway up the rise of 200: torch counts steps, we the way between two of them
    for step in range(999):
        assert descent.factor(job, 10 * step / 999) == pytest.approx(cycle.get_last_lr()[0], abs=steepest)
        optimiser.step()
        cycle.step()
    assert descent.factor(job, 10) == near(0, size=1) and descent.factor(job, 2) == 1


@pytest.mark.slow
def test_a_killed_process_started_again_ends_in_the_same_network(data, tmp_path):
    """SIGKILL in the middle of the third of four epochs."""
    source, cache = data
    line = ["--source", source, "--backbone", "timm/test_resnet", "--backbone-args", "pretrained=false", "norm_layer=groupnorm1"]
    line += ["--classes", "5", "--image-size", str(SIZE), "--epochs", "4", "--batch-size", "1", "--head", "calm_em", "--cache", str(cache)]

    def command(out):
        return [sys.executable, "-m", "jobs.train", *line, "--out", str(out)]

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(tmp_path / "killed"), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    for told in process.stderr:
        if "epoch 2:" in told:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    assert not (tmp_path / "killed" / "checkpoint.safetensors").exists()
    for out in ("killed", "whole"):
        subprocess.run(command(tmp_path / out), cwd=ROOT, env=environment, check=True, capture_output=True)
    files = [load_file(tmp_path / out / "checkpoint.safetensors") for out in ("killed", "whole")]
    assert same(*files)


def together(rank: int, job: Training, address: str) -> None:
    """One of two workers without Ray."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    loop.train(check_training(job), Team(rank, 2, rank, 2))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"head": "calm_em"}, {"head": "plain", "freeze": "trunk", "lr": (0.01, 0.001)}], ids=str)
def test_two_workers_learn_what_one_does(data, tmp_path, changes):
    """The last batch has images for one of them alone."""
    changes = {**changes, "batch_size": 6, "epochs": 3}
    alone, one = trained(data, tmp_path / "one", **changes)
    job = training(data, tmp_path / "two", **{**changes, "cache": str(tmp_path / "cache")})
    torch.multiprocessing.spawn(together, (job, str(tmp_path / "meeting")), nprocs=2)
    told = json.loads((tmp_path / "two" / "training.json").read_text())
    of_losses, of_weights = moved(data, tmp_path, **changes)
    np.testing.assert_allclose(np.array(losses(told), float), np.array(losses(alone), float), rtol=0, atol=2 * of_losses)
    two = load_file(tmp_path / "two" / "checkpoint.safetensors")
    assert max((one[name] - two[name]).abs().max().item() for name in one) <= 2 * of_weights


def moved(data, folder, **changes) -> tuple[float, float]:
    """How far rounding to single precision may move a training's losses, and its weights, at most (conditioning.py)."""
    runs = []
    for draw in (None, 0, 1):
        with Double(draw):
            runs.append(trained(data, folder / f"double {draw}", **changes))
    (told, network), *others = runs
    of_losses = max(np.abs(np.array(losses(other), float) - np.array(losses(told), float)).max() for other, _ in others)
    of_weights = max((value - network[name]).abs().max().item() for _, other in others for name, value in other.items())
    assert 0 < of_losses < 1e-3 and 0 < of_weights < 1e-3, "rounding may do anything"
    return FACTOR * of_losses, FACTOR * of_weights


class Doomed(CheckedTraining):
    """A training whose worker is killed once, when its loop first asks for the preprocessing in an epoch that has a forerunner."""

    @property
    def prepare(self):
        mark = Path(self.job.out) / "killed"
        if list(Path(self.job.out).glob("state/*.safetensors")) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_a_lost_worker_costs_an_epoch_and_changes_nothing(cluster, data, tmp_path):
    from pipeline.train.on_ray import train_on_ray

    job = training(data, tmp_path / "ray", epochs=3, head="calm_em", workers=1)
    checked = check_training(job)
    train_on_ray(Doomed(**vars(checked)), 1, gpus=False)
    assert (tmp_path / "ray" / "killed").exists()
    train_on_ray(check_training(training(data, tmp_path / "two", epochs=3, head="calm_em", workers=2)), 2, gpus=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone, network = trained(data, tmp_path / "alone", epochs=3, head="calm_em")
    torch.set_num_threads(threads)
    assert same(load_file(tmp_path / "ray" / "checkpoint.safetensors"), network)
    two = json.loads((tmp_path / "two" / "training.json").read_text())
    of_losses, _ = moved(data, tmp_path, epochs=3, head="calm_em")
    np.testing.assert_allclose(np.array(losses(two), float), np.array(losses(alone), float), rtol=0, atol=2 * of_losses)


def test_order_and_crops_are_decided_by_seed_epoch_and_id_alone(data, tmp_path):
    checked = check_training(training(data, tmp_path))
    images = load_images(checked.image_spec, checked.job.cache, Team())
    orders = [images.order(epoch) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == images.rows["train"] for order in orders)
    rows = orders[0][:4]
    whole = images.crops(rows, 5)
    assert np.array_equal(whole[2:3], images.crops(rows[2:3], 5))
    assert not np.array_equal(whole, images.crops(rows, 6))
    # the shards named apart and backwards are the same images under the same names
    source, cache = data
    shards = tuple(sorted((str(path) for path in Path(source).parent.glob("*.tar")), reverse=True))
    other = check_training(training((shards[0], cache), tmp_path, source=shards))
    assert other.image_spec.identity == checked.image_spec.identity


def test_the_head_alone_learns_first_and_then_every_layer(data, tmp_path):
    changes = {"head_epochs": 1, "head_lr": 0.1, "head_lr_factor": 1.0}
    job = training(data, tmp_path, epochs=1, **changes)
    start = check_training(job).start
    told, _ = trained(data, tmp_path, epochs=1, **changes)
    assert [row["trained"] for row in told["epochs"]] == ["head", "all"]
    assert told["recipe"]["trunk"] != start
    # after the head's epochs alone the trunk is the one it started from
    _, network = trained(data, tmp_path / "alone", epochs=1, head_epochs=1, lr=(1e-30,), head_lr=0.1)
    fresh = initial_network(check_training(job)).state_dict()
    moved = {name.partition(".")[0] for name, value in network.items() if (value - fresh[name]).abs().max() > 1e-20}
    assert moved == {"head"}


def test_a_frozen_trunk_is_left_as_it_was_and_seen_once(data, tmp_path, monkeypatch):
    told, _ = trained(data, tmp_path / "one", freeze="trunk", head="calm_ml")
    assert told["recipe"]["trunk"] == check_training(training(data, tmp_path / "other", freeze="trunk")).start
    assert {row["trained"] for row in told["epochs"]} == {"head"}
    # the features lie in the cache now, so a second head needs no pass through the trunk: only its own start and shapes are looked at
    monkeypatch.setattr(Images, "crops", None)
    trained(data, tmp_path / "two", freeze="trunk", head="plain", lr=(0.1, 0.01))


def test_a_training_goes_on_from_the_trunk_of_another(undisturbed, data, tmp_path):
    _, out, told, network = undisturbed
    weights = f"train/{out}/checkpoint.safetensors"
    again, other = trained(data, tmp_path / "on", weights=weights, freeze="trunk", head="calm_em", epochs=1)
    assert again["recipe"]["trunk"] == told["recipe"]["trunk"]
    assert all(torch.equal(value, other[name]) for name, value in network.items() if name.startswith("trunk."))
    with pytest.raises(Refusal, match="do not fit"):
        trained(data, tmp_path / "unlike", weights=weights, backbone="timm/test_efficientnet")


def test_of_several_rates_the_best_on_the_validation_images_is_kept(data, tmp_path):
    told, _ = trained(data, tmp_path, lr=(1e-6, 0.02, 1e30), freeze="trunk", epochs=3)
    last = {row["lr"]: row for row in told["epochs"]}
    assert len(last) == 3 and last[1e30]["loss"] is None
    sound = [row for lr, row in last.items() if lr < 1]
    assert told["lr"] == max(sound, key=lambda row: (row["val_accuracy"], -row["val_loss"]))["lr"]


@pytest.mark.parametrize(("norm", "moves"), [("auto", False), ("frozen", False), ("train", True)])
def test_folded_batch_norm_keeps_its_statistics(data, tmp_path, norm, moves):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = tmp_path / "folded.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)  # running means are zero, as in a folded network
    how = {"backbone_args": (), "weights": str(weights), "epochs": 1, "batch_norm": norm}
    _, network = trained(data, tmp_path / "out", **how)
    means = [value for name, value in network.items() if name.endswith("running_mean")]
    assert means
    assert any(value.any() for value in means) == moves


def test_a_fresh_network_learns_its_statistics(data, tmp_path):
    _, network = trained(data, tmp_path, backbone_args=("pretrained=false",), epochs=1)
    assert any(value.any() for name, value in network.items() if name.endswith("running_mean"))


def test_splits_are_heeded_and_bad_images_are_told(data, tmp_path):
    def sample(seed, split):
        members = good(seed)
        return {**members, "json": json.dumps({"label": seed % 5, "split": split}).encode()}

    splits = ["train"] * 8 + ["val"] * 3 + ["test"] * 2
    samples = [(f"s{i:02}", sample(i, split)) for i, split in enumerate(splits)]
    samples += [
        ("t0", {**sample(0, "train"), "png": b"\x89PNG\r\n\x1a\nno"}),
        ("t1", {"png": good(1)["png"]}),
        ("t2", {**good(2), "cls": b"9"}),
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(samples))
    (tmp_path / "b.tar").write_bytes(b"")
    told, _ = trained((f"{tmp_path}/*.tar", tmp_path / "cache"), tmp_path / "out", epochs=1)
    assert told["images"] == {"train": 8, "val": 3, "test": 2}
    for name, n in (("val", 3), ("test", 2)):
        ends = binomtest(round(told[f"{name}_accuracy"] * n), n).proportion_ci(0.95, "exact")
        assert told[f"{name}_interval"] == [pytest.approx(end, abs=2e-12) for end in ends]
    job = training((f"{tmp_path}/*.tar", tmp_path / "cache"), tmp_path / "out2", train_split="test", epochs=1, val_share=0)
    again = job_train.run(job)
    assert again["images"] == {"train": 2, "val": 3, "test": 0}
    assert again["test_accuracy"] is again["test_interval"] is None
    kinds = [error["error"] for error in told["errors"]]
    assert sorted(kinds) == sorted(["TruncatedImage", "MissingLabel", "OutOfRangeLabel", "EmptyShard"])


def test_a_bucket_does_for_everything(data, s3, tmp_path):
    source, cache = data
    for path in Path(source).parent.glob("*.tar"):
        write_bytes(f"{s3}/shards/{path.name}", path.read_bytes())
    job = training((f"{s3}/shards/*.tar", cache), f"{s3}/out", head="calm_em", epochs=1)
    first = job_train.run(job)
    again = job_train.run(Training(**{**vars(job), "epochs": 2}))
    assert losses(again)[:1] == losses(first)
    backbone = backbones.load(f"train/{s3}/out/checkpoint.safetensors")
    assert backbone.branches is not None
    assert all(name.endswith((".safetensors", ".json")) for name in filesystem(s3)[0].find(f"{s3}/out"))


def test_a_checkpoint_with_class_names_explains_shards_that_name_theirs(data, tmp_path):
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(f"class{c}" for c in range(5)) + "\n")
    trained(data, tmp_path / "net", classes=str(names), epochs=1, head="calm_ml")
    backbone = f"train/{tmp_path}/net/checkpoint.safetensors"
    how = {"source": (data[0],), "backbone": backbone, "methods": ("calm",), "workers": 0}
    (tmp_path / "sets.json").write_text(json.dumps({"front": ["class0", "class1"]}))
    job = Job(**how, out=str(tmp_path / "out"), targets=("label", "class_set:front"), class_sets=str(tmp_path / "sets.json"), limit=3)
    assert explain.run(job).complete
    run = tables.open(str(tmp_path / "out"))
    assert run.sql("SELECT count(*) AS n FROM maps").to_pylist() == [{"n": 6}]
    assert {row["label_name"] for row in run.sql("SELECT label_name FROM images").to_pylist()} <= {f"class{c}" for c in range(5)}
    other = tmp_path / "other.txt"
    other.write_text("class0\nclass1\nkiwi\nclass3\nclass4\n")
    with pytest.raises(Refusal, match="class 2 is 'class2', not 'kiwi'"):
        explain.run(Job(**how, out=str(tmp_path / "out2"), classes=str(other)))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    trained(data, out, head="calm_em", epochs=1, freeze="trunk")
    return out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": "plain"}, "head 'calm_em', not 'plain'"),
        ({"classes": "6"}, "num_classes '5', not '6'"),
        ({"backbone": "timm/test_resnet", "output_stride": 16}, "stride '8', not '16'"),
        ({"positive": "relu"}, "positive 'softplus', not 'relu'"),
        ({"momentum": 0.5}, "momentum 0.9, not 0.5"),
        ({"backbone_args": ("pretrained=false", "norm_layer=groupnorm1", "drop_rate=0.1")}, "args.drop_rate 'null', not '0.1'"),
    ],
    ids=str,
)
def test_what_another_training_left_is_refused_with_the_difference(finished, data, changes, words):
    with pytest.raises(Refusal, match=words):
        trained(data, finished, **{"head": "calm_em", "epochs": 1, "freeze": "trunk", **changes})


def test_a_changed_or_foreign_checkpoint_is_refused(finished, tmp_path):
    content = read_bytes(f"{finished}/checkpoint.safetensors")
    recipe, state, _ = checkpoint.decode(content, "it")
    first = next(name for name in sorted(state) if name.startswith("trunk."))
    moved = {**state, first: state[first] + 1}
    (tmp_path / "moved.safetensors").write_bytes(checkpoint.encode(recipe, moved))
    with pytest.raises(Refusal, match="another trunk"):
        backbones.load(f"train/{tmp_path}/moved.safetensors")
    fewer = {name: value for name, value in state.items() if not name.startswith("head.place")}
    (tmp_path / "fewer.safetensors").write_bytes(checkpoint.encode(recipe, fewer))
    with pytest.raises(Refusal, match="2 missing"):
        backbones.load(f"train/{tmp_path}/fewer.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(content[:-100])
    with pytest.raises(Refusal, match="damaged"):
        backbones.load(f"train/{tmp_path}/cut.safetensors")
    with pytest.raises(Refusal, match="not written by jobs.train"):
        backbones.load(f"train/{ROOT}/pipeline/datasets/creatures/weights.safetensors")
    with pytest.raises(Refusal, match="cannot be read"):
        backbones.load(f"train/{tmp_path}/none.safetensors")


@pytest.mark.parametrize(
    ("how", "words"),
    [({"weights": "w.safetensors"}, "brings its own weights"), ({"args": {"num_classes": 7}}, "takes no argument 'num_classes'")],
)
def test_a_checkpoint_knows_its_network(finished, how, words):
    with pytest.raises(Refusal, match=words):
        backbones.load(f"train/{finished}/checkpoint.safetensors", **how)


def test_a_moved_checkpoint_is_the_same_network(finished, tmp_path):
    shutil.copy(finished / "checkpoint.safetensors", tmp_path / "moved.safetensors")
    one, other = (backbones.load(f"train/{folder}.safetensors") for folder in (finished / "checkpoint", tmp_path / "moved"))
    assert one.identity == other.identity


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "timm/test_vit", "backbone_args": ("pretrained=false",)}, "convolutional"),
        ({"backbone": "tests.tiny:build"}, "timm network"),
        ({"lr": (0.1, 0.1)}, "given once"),
        ({"lr": (0.0,)}, "above 0"),
        ({"epochs": 0}, "at least 1"),
        ({"freeze": "trunk", "head_epochs": 2}, "head alone already"),
        ({"classes": "/nowhere/classes.txt"}, "no file of class names"),
        ({"output_stride": 3}, "choose one of"),
        ({"lr": (0.1, 0.2), "val_share": 0.0}, "validation images"),
        ({"lr": (1e30, 1e35), "freeze": "trunk"}, "diverged at every rate"),
    ],
    ids=str,
)
def test_a_training_that_cannot_be_is_refused_in_one_line(data, tmp_path, changes, words):
    with pytest.raises(Refusal, match=words) as caught:
        trained(data, tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_without_labels_there_is_nothing_to_train_on(tmp_path, capsys):
    (tmp_path / "a.tar").write_bytes(tar_bytes([("a", {"png": good(0)["png"]})]))
    line = ["--source", f"{tmp_path}/a.tar", "--backbone", "timm/test_resnet", "--backbone-args", "pretrained=false", "--classes", "5"]
    assert job_train.main([*line, "--out", str(tmp_path / "out"), "--image-size", "32"]) == 2
    with contextlib.suppress(ValueError):
        assert "carries a label" in capsys.readouterr().err
