"""A store that stumbles is asked again; one that stays away costs the shards it holds, with the reason, and nothing else."""

import errno

import pytest

from jobs import explain
from pipeline import storage
from pipeline.refusal import Refusal
from pipeline.storage import filesystem, join
from pipeline.tables import files, publish
from tests.faults import KINDS, Faults, proxy
from tests.jobs import content, job
from tests.shards import dataset

ASKED = {"methods": ("grad_cam",), "targets": ("label",), "task_images": 4}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    explain.run(job(dataset(folder / "shards"), folder / "out", **ASKED))
    return content(folder / "out")


@pytest.fixture
def stumbling(s3, s3_server, tmp_path, monkeypatch):
    """(faults, bucket): three shards in a bucket, and an endpoint before it that does as `faults` says."""
    dataset(tmp_path / "shards")
    for shard in (tmp_path / "shards").glob("*.tar"):
        files.write_bytes(join(s3, "shards", shard.name), shard.read_bytes())
    monkeypatch.setattr(storage, "WAITS", (0.01, 0.02, 0.04))
    monkeypatch.setattr(storage, "S3_CLIENT", {**storage.S3_CLIENT, "retries": {"total_max_attempts": 1}})
    faults = Faults()
    with proxy(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        yield faults, s3


@pytest.mark.parametrize("kind", KINDS)
def test_a_stumble_of_each_kind_costs_nothing_but_a_second_try(stumbling, expected, kind):
    faults, place = stumbling
    faults.share, faults.kinds = 0.1, (kind,)
    assert explain.run(job(f"{place}/shards/*.tar", f"{place}/atlas", **ASKED)).complete
    assert faults.injected[kind] > 0
    faults.share = 0
    assert content(f"{place}/atlas") == expected


@pytest.mark.parametrize(
    ("kind", "words"), [("gone", "NotFound"), ("expired", "ExpiredToken|PermissionError|Bad Request"), ("error", "Internal Server Error")]
)
def test_what_no_second_try_helps_costs_its_shard_with_the_reason(stumbling, kind, words):
    faults, place = stumbling
    faults.share, faults.kinds, faults.where = 1.0, (kind,), "/shards/00001.tar"
    outcome = explain.run(job([f"{place}/shards/*.tar"], f"{place}/atlas", **ASKED))
    assert not outcome.complete
    assert outcome.counts["explained"] == 8
    faults.share = 0
    [row] = content(f"{place}/atlas")["errors"]
    assert row["shard"] == "00001.tar"
    assert any(word in f"{row['error']} {row['message']}" for word in words.split("|"))
    assert explain.run(job(f"{place}/shards/*.tar", f"{place}/atlas", **ASKED)).complete, "and the next night has it"


def test_an_object_that_vanishes_between_the_listing_and_the_reading_is_told(stumbling, expected, monkeypatch):
    from pipeline.run import execute

    faults, place = stumbling
    undisturbed = execute._explain_missing

    def disturbed(*arguments):
        storage.remove([f"{place}/shards/00002.tar"])
        return undisturbed(*arguments)

    monkeypatch.setattr(execute, "_explain_missing", disturbed)
    outcome = explain.run(job(f"{place}/shards/*.tar", f"{place}/atlas", **ASKED))
    assert outcome.counts["explained"] == 8
    assert {(row["shard"], row["error"]) for row in content(f"{place}/atlas")["errors"]} == {("00002.tar", "NotFound")}


def test_expired_credentials_end_the_job_in_one_line(stumbling, capsys):
    faults, place = stumbling
    faults.share, faults.kinds = 1.0, ("expired",)
    with pytest.raises(Refusal, match="cannot be written") as refused:
        explain.run(job(f"{place}/shards/*.tar", f"{place}/atlas", **ASKED))
    assert "\n" not in str(refused.value)


def test_a_store_that_takes_no_tables_ends_the_job_and_loses_no_task(stumbling, expected, capsys):
    faults, place = stumbling
    faults.share, faults.kinds, faults.where = 1.0, ("error",), "/atlas/runs/"
    line = ["--source", f"{place}/shards/*.tar", "--backbone", "tests.tiny:build", "--image-size", "64", "--workers", "0"]
    line += ["--out", f"{place}/atlas", "--methods", "grad_cam", "--task-images", "4"]
    assert explain.main(line) == 1
    assert "run the job again" in capsys.readouterr().err
    assert publish.current(f"{place}/atlas") == {}
    faults.share = 0
    before = list(files.below(f"{place}/atlas/tasks"))
    assert explain.main(line) == 0
    assert list(files.below(f"{place}/atlas/tasks")) == before
    assert content(f"{place}/atlas") == expected


def test_a_server_that_hangs_is_given_up_and_asked_again(stumbling, expected, monkeypatch):
    monkeypatch.setattr(storage, "S3_CLIENT", {**storage.S3_CLIENT, "read_timeout": 0.5})
    faults, place = stumbling
    faults.share, faults.kinds = 0.04, ("hung",)
    assert explain.run(job(f"{place}/shards/*.tar", f"{place}/atlas", **ASKED)).complete
    assert faults.injected["hung"] > 0
    faults.share = 0
    assert content(f"{place}/atlas") == expected


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TimeoutError("late"), True),
        (ConnectionResetError("reset"), True),
        (OSError(errno.EIO, "bad sector"), True),
        (OSError(errno.EBUSY, "SlowDown"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (OSError(errno.EINVAL, "precondition"), False),
        (PermissionError("ExpiredToken"), False),
        (FileNotFoundError("gone"), False),
        (ValueError("no tar"), False),
    ],
)
def test_what_is_asked_again_and_what_is_not(error, again, monkeypatch):
    monkeypatch.setattr(storage, "WAITS", (0, 0, 0))
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = error
    assert storage.transient(wrapped) is again
    calls = []

    def failing():
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        storage.retrying(failing)
    assert len(calls) == (4 if again else 1)
    assert not storage.transient(error), "whoever called it does not ask again"


def test_retries_are_counted_where_they_happen(stumbling, monkeypatch):
    """One of three shards answers three times with an error when its task comes to read it."""
    from pipeline import tables
    from pipeline.run import execute

    faults, place = stumbling
    undisturbed = execute._explain_missing

    def disturbed(*arguments):
        faults.share, faults.kinds, faults.where, faults.left = 1.0, ("busy",), "/shards/00001.tar", 3
        return undisturbed(*arguments)

    monkeypatch.setattr(execute, "_explain_missing", disturbed)
    explain.run(job(f"{place}/shards/*.tar", f"{place}/atlas", **ASKED))
    assert faults.injected["busy"] == 3
    assert tables.open(f"{place}/atlas").manifest["spent"]["retries"] == 3


def test_the_client_keeps_to_the_limits_set_for_it(s3):
    fs, _ = filesystem(s3)
    fs.ls(s3)
    assert fs.s3.meta.config.read_timeout == storage.S3_CLIENT["read_timeout"]
    assert fs.s3.meta.config.retries["total_max_attempts"] == storage.S3_CLIENT["retries"]["total_max_attempts"]
