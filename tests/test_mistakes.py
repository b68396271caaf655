"""The likeliest mistakes of a new user: each ends with exit code 2 and one line that names the bad value and the fix."""

from pathlib import Path

import pytest
from safetensors.numpy import save_file

from jobs import explain
from tests.faults import Faults, proxy
from tests.shards import dataset, encoded, good, picture, tar_bytes

FINE = {
    "--backbone": ["tests.tiny:build"],
    "--image-size": ["64"],
    "--workers": ["0"],
    "--methods": ["grad_cam"],
}


@pytest.fixture
def here(tmp_path) -> Path:
    """A folder with good shards, and with what the mistakes below need."""
    import numpy as np
    import torch

    dataset(tmp_path / "shards", shards=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.md").write_text("no image")
    (tmp_path / "unlabelled.tar").write_bytes(tar_bytes([("x", {"png": encoded(picture(0))})]))
    (tmp_path / "beyond.tar").write_bytes(tar_bytes([("x", {**good(0), "cls": b"99"})]))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "weights.pth")  # the module itself: a pickle of code
    save_file({"other": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    (tmp_path / "job.toml").write_text("methods = [")
    (tmp_path / "odd.toml").write_text("nethods = ['cam']")
    (tmp_path / "two.txt").write_text("wren\nrobin\n")
    (tmp_path / "file").write_text("not a folder")
    for name in "abc":
        (tmp_path / "folders" / name).mkdir(parents=True)
        (tmp_path / "folders" / name / "1.png").write_bytes(encoded(picture(1)))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"--source": ["{here}/shard/*.tar"]}, ["shard/*.tar", "matches nothing"]),
        ({"--source": ["{here}/empty"]}, ["empty", "matches nothing"]),
        ({"--source": ["{here}/notes"]}, ["notes", ".tar"]),
        ({"--source": ["{here}/shards/{{00000..00001.tar"]}, ["brace"]),
        ({"--source": ["s4://bucket/*.tar"]}, ["s4"]),
        ({"--source": ["{here}/unlabelled.tar"]}, ["label", "--targets predicted"]),
        ({"--source": ["{here}/folders"]}, ["3 classes", "--classes"]),
        ({"--classes": ["{here}/two.txt"]}, ["2 class names", "5 classes"]),
        ({"--out": ["{here}/file/out"]}, ["cannot be written", "permissions"]),
        ({"--backbone": ["timm/resnet5o"]}, ["resnet5o", "resnet50"]),
        ({"--backbone": ["tests.tinny:build"]}, ["tests.tinny"]),
        ({"--backbone": ["timm/test_resnet"], "--weights": ["{here}/nowhere.safetensors"]}, ["nowhere.safetensors"]),
        ({"--backbone": ["timm/test_resnet"], "--weights": ["{here}/weights.pth"]}, ["weights.pth", "safetensors"]),
        ({"--backbone": ["timm/test_resnet"], "--weights": ["{here}/other.safetensors"]}, ["other.safetensors"]),
        ({"--backbone": ["timm/test_vit"], "--backbone-args": ["pretrained=false"], "--image-size": ["65"]}, ["65"]),
        ({"--layer": ["layer4"]}, ["layer4"]),
        ({"--device": ["cuda"]}, ["cuda", "--device cpu"]),
        ({"--methods": ["gradcam"]}, ["gradcam", "did you mean grad_cam"]),
        ({"--methods": ["family:cams"]}, ["cams", "cam"]),
        ({"--targets": ["fine"]}, ["fine", "finer"]),
        ({"--targets": ["class:17"]}, ["17", "0 to 4"]),
        ({"--metrics": ["pointing_game"]}, ["pointing_game", "pointing"]),
        ({"--method-args": ["grad_cam_pp.eps=1"]}, ["grad_cam_pp", "not asked for"]),
        ({"--methods": ["grad_cam_pp"], "--method-args": ["grad_cam_pp.epsilon=1"]}, ["epsilon", "eps"]),
        ({"--methods": ["grad_cam_pp"], "--method-args": ["grad_cam_pp.eps=small"]}, ["small", "float"]),
        ({"--select": ["predicted = = label"]}, ["predicted = = label", "columns are"]),
        ({"--select": ["certainty > 0.5"]}, ["certainty", "predicted_prob"]),
        ({"--config": ["{here}/job.toml"]}, ["job.toml"]),
        ({"--config": ["{here}/odd.toml"]}, ["nethods", "methods"]),
        ({"--batch-size": ["big"]}, ["big", "auto"]),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(here, line, words, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    fine = {**FINE, "--source": [f"{here}/shards/00000.tar"], "--out": [f"{here}/out"]}
    settings = {**fine, **{flag: [value.format(here=here) for value in values] for flag, values in line.items()}}
    arguments = [part for flag, values in settings.items() for part in (flag, *values)]
    code = _code(arguments)
    output = capsys.readouterr().err
    assert code == 2, output
    assert "Traceback" not in output
    plain = " ".join(output.replace("│", " ").split())
    for word in words:
        assert word in plain
    if output.startswith("error: "):
        assert len(output.strip().splitlines()) == 1
    assert not (here / "out" / "tasks").exists(), "no work was done"


def _code(arguments: list[str]) -> int:
    try:
        return explain.main(arguments)
    except SystemExit as left:
        return left.code


def test_a_label_out_of_range_is_an_error_of_its_image(here, capsys):
    from pipeline import tables

    line = [part for flag, values in FINE.items() for part in (flag, *values)]
    code = explain.main([*line, "--source", f"{here}/beyond.tar", "--out", f"{here}/out", "--targets", "predicted"])
    assert code == 0
    rows = tables.open(f"{here}/out").table("errors").to_pylist()
    assert [(row["error"], row["image_id"]) for row in rows] == [("OutOfRangeLabel", "beyond.tar/x")]
    assert "outside 0 ... 4" in rows[0]["message"]


def test_a_wrong_bucket_and_missing_credentials_are_told_apart(s3, s3_server, here, monkeypatch, capsys):
    line = [part for flag, values in FINE.items() for part in (flag, *values)]
    missing = ["--source", "s3://nowhere-at-all/shards/*.tar", "--out", f"{here}/out"], "matches nothing"
    elsewhere = ["--source", f"{here}/shards/00000.tar", "--out", "s3://nowhere-at-all/atlas"], "bucket does not exist"
    for place, words in (missing, elsewhere):
        assert _code([*line, *place]) == 2
        assert words in capsys.readouterr().err
    with proxy(s3_server, Faults(1.0, ("denied",))) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for place in (["--source", f"{s3}/shards/*.tar", "--out", f"{here}/out"], ["--source", f"{here}/shards", "--out", f"{s3}/atlas"]):
            assert _code([*line, *place]) == 2
            output = capsys.readouterr().err
            assert "credentials" in output or "permissions" in output


def test_a_relative_path_inside_a_submitted_job_is_refused_with_the_fix(here, monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    line = [part for flag, values in FINE.items() for part in (flag, *values)]
    assert _code([*line, "--source", f"{here}/shards/00000.tar", "--out", "out/atlas"]) == 2
    output = " ".join(capsys.readouterr().err.split())
    assert "absolute path" in output.replace("│", "").replace("  ", " ")
