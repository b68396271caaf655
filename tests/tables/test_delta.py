"""Runs as Delta tables at addresses that stay: whole for readers, by version, after any kill, race or garbage collection."""

import signal
import subprocess
import sys
from itertools import pairwise

import pyarrow as pa
import pytest
from deltalake.exceptions import DeltaError

from jobs import explain, gc, publish, score
from pipeline import storage, tables
from pipeline.reduce import compact
from pipeline.refusal import Refusal
from pipeline.tables import files
from pipeline.tables.gc import collect_garbage
from pipeline.tables.lake import delta
from pipeline.tables.lake.commit import commit_run, place
from pipeline.tables.lake.location import table_url
from pipeline.tables.publish import Overtaken, current, flip
from pipeline.tables.receipts import parquet_bytes
from tests.engines import values
from tests.faults import KINDS, Faults, proxy
from tests.jobs import METRICS, job
from tests.shards import dataset


@pytest.fixture(params=["local", "s3"])
def out(request, tmp_path):
    return str(tmp_path / "out") if request.param == "local" else f"{request.getfixturevalue('s3')}/atlas"


@pytest.fixture
def source(tmp_path):
    return dataset(tmp_path / "shards", shards=2)


def night(source, out, method="grad_cam", **changes) -> tables.Run:
    """The run of a night, with Delta tables but for the changes."""
    plain = {"methods": (method,), "targets": ("label",), "delta": True}
    return tables.open(out, run_id=explain.run(job(source, out, **{**plain, **changes})).run_id)


def load(out, table, version=None, name="default"):
    return delta.load(table_url(out, name, table), version)


def rows(out, table, version=None, name="default") -> list[dict]:
    """The rows of a Delta table as its library reads them."""
    return values(load(out, table, version, name).to_pyarrow_table())


def rows_of(run: tables.Run) -> dict[str, list[dict]]:
    return {table: values(run.table(table)) for table in run.tables}


def check(out, run, version=None, name="default"):
    """Every table of a run is the Delta table of its name at a version, the last one by default."""
    for table in run.tables:
        assert rows(out, table, version, name) == values(run.table(table)), table


def test_every_table_has_the_rows_of_the_run(source, out):
    run = night(source, out, metrics=METRICS)
    assert run.manifest["lake"] == "default" and len(run.tables) == 9 and current(out) == {"default": run.run_id}
    check(out, run, version=0)
    check(out, run)
    assert {path.split("/")[0] for path in files.below(storage.join(out, "runs", run.run_id))} == {"run.json", "receipts.parquet"}
    assert run.sql("SELECT * FROM maps").column_names == run.dataset("maps").schema.names, "no column that a folder would name"
    for table in run.tables:
        lake = load(out, table)
        assert delta.holds(lake, run.run_id) and delta.run_ids(lake) == {run.run_id}
        assert sum(lake.get_add_actions(flatten=True).column("num_records").to_pylist()) == run.table(table).num_rows
        uris = {storage.filesystem(url)[1] for url in run.urls(table)}
        assert {storage.filesystem(url)[1] for url in lake.file_uris()} == uris, "its own files, and no copies"


def test_a_table_moves_from_run_to_run_and_each_version_stays_readable(source, out):
    nights = [night(source, out, metrics=METRICS[:1]), night(source, out, metrics=METRICS), night(source, out, metrics=())]
    for version, run in enumerate(nights):
        check(out, run, version)
    check(out, nights[-1])
    assert [len(rows(out, table, 2)) for table in ("metrics", "summary")] == [0, 0], "a night may lack tables"
    old, new = (set(load(out, "metrics", version).to_pyarrow_table().column_names) for version in (0, 1))
    assert "energy" in old < new and {"pointing", "iou_50"} <= new - old, "a night may bring columns"


def test_the_same_run_is_committed_once(source, out, capsys):
    run = night(source, out)
    assert publish.main(["--out", out]) == 0
    assert "nothing new" in capsys.readouterr().out
    assert night(source, out).run_id == run.run_id
    assert {load(out, table).version() for table in run.tables} == {0}


def test_readers_see_a_run_as_a_whole_while_the_next_is_committed(source, out, monkeypatch):
    before, seen = night(source, out), []
    open_since = {table: load(out, table) for table in before.tables}
    undisturbed = delta.commit

    def observed(url, table, run, name):
        seen.append((name, rows(out, name)))
        undisturbed(url, table, run, name)
        seen.append((name, rows(out, name)))

    monkeypatch.setattr(delta, "commit", observed)
    after = night(source, out, "layer_cam")
    expected = [rows_of(run) for run in (before, after)]
    assert expected[0]["maps"] != expected[1]["maps"]
    assert seen == [(name, run[name]) for name in after.tables for run in expected]
    assert {table: values(lake.to_pyarrow_table()) for table, lake in open_since.items()} == expected[0]


KILLED = """
import os, signal, sys
from jobs import publish
from pipeline.tables.lake import delta
undisturbed, left = delta.commit, int(sys.argv[2])
def commit(*arguments):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    undisturbed(*arguments)
delta.commit = commit
publish.main(["--out", sys.argv[1]])
"""


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_publisher_killed_between_tables_leaves_each_whole_and_the_next_does_the_rest(source, out, count):
    before = night(source, out)
    after = night(source, out, "layer_cam", delta=False)
    check(out, before)
    died = subprocess.run([sys.executable, "-c", KILLED, out, str(count)], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL and "copied within the store" in died.stdout
    for position, table in enumerate(after.tables):
        assert rows(out, table) == values((after if position < count else before).table(table)), table
    assert publish.main(["--out", out]) == 0
    check(out, after)
    assert {load(out, table).version() for table in after.tables} == {1}


def test_a_night_with_nothing_new_commits_what_a_killed_one_has_published(source, out, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    before = night(source, out)
    with monkeypatch.context() as dying:
        dying.setattr(delta, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            night(source, out, "layer_cam")
    check(out, before)
    published = tables.open(out)
    assert published.run_id != before.run_id and night(source, out, "layer_cam").run_id == published.run_id
    check(out, published)


def test_files_of_a_run_that_was_never_published_are_not_seen(source, out, monkeypatch):
    before = night(source, out)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr("pipeline.reduce.publish_run.publish.flip", killed)
        with pytest.raises(KeyboardInterrupt):
            night(source, out, "layer_cam")
    assert tables.last(out).run_id != before.run_id and tables.open(out).run_id == before.run_id
    assert publish.main(["--out", out]) == 0
    check(out, before)
    assert {load(out, table).version() for table in before.tables} == {0}


def commit(run):
    commit_run(place(run, "default"), "default")


@pytest.fixture(params=["first", "later"])
def rivals(request, source, out):
    """Two runs that are published but not committed, in tables that hold another run or do not exist; the first is not current any more."""
    if request.param == "later":
        night(source, out, "xgrad_cam")
    return [night(source, out, method, delta=False) for method in ("grad_cam", "layer_cam")]


def test_a_late_publisher_says_so_and_leaves_the_tables_to_the_newer_run(out, rivals):
    with pytest.raises(Overtaken, match=f"{rivals[1].run_id} was published as 'default' meanwhile"):
        commit(rivals[0])
    commit(rivals[1])
    check(out, rivals[1])


def test_a_race_lost_within_a_commit_is_told_and_nothing_is_lost(out, rivals, monkeypatch, capsys):
    """The rival publishes and commits between the moment at which the publisher has read all it decides by, and its commit."""
    undisturbed = delta.commit
    late, new = rivals
    flip(out, "default", late.run_id, new.run_id)

    def overtaken(*arguments):
        monkeypatch.setattr(delta, "commit", undisturbed)
        assert publish.main(["--out", out, "--run", new.run_id]) == 0
        undisturbed(*arguments)

    monkeypatch.setattr(delta, "commit", overtaken)
    assert publish.main(["--out", out]) == 3
    assert f"{new.run_id} was published as 'default' meanwhile" in capsys.readouterr().err
    check(out, new)
    assert publish.main(["--out", out, "--run", late.run_id]) == 0
    check(out, late)


def test_the_newer_run_wins_over_a_late_commit(out, rivals, monkeypatch):
    undisturbed = delta.commit
    late, new = rivals

    def disturbed(url, table, run, name):
        monkeypatch.setattr(delta, "commit", undisturbed)
        undisturbed(url, delta.load(url), place(late, "default"), name)
        undisturbed(url, table, run, name)

    monkeypatch.setattr(delta, "commit", disturbed)
    commit(new)
    check(out, new)


def test_an_older_run_is_published_again_by_its_id(source, out, capsys):
    nights = [night(source, out, method) for method in ("grad_cam", "layer_cam")]
    assert publish.main(["--out", out, "--run", nights[0].run_id]) == 0
    assert "maps  version 2" in capsys.readouterr().out
    assert tables.open(out).run_id == nights[0].run_id
    for version, run in enumerate([*nights, nights[0]]):
        check(out, run, version)
    after = night(source, out, "layer_cam")
    assert after.run_id not in {run.run_id for run in nights}, "the next job goes on from there"
    check(out, after, version=3)


def test_a_run_may_be_published_under_another_name(source, out):
    run = night(source, out)
    assert publish.main(["--out", out, "--name", "best", "--run", run.run_id]) == 0
    check(out, run, name="best")
    assert current(out) == {"default": run.run_id, "best": run.run_id}
    assert score.main(["--out", out, "--name", "best", "--metrics", "energy"]) == 0
    scored = tables.open(out, "best")
    assert current(out) == {"default": run.run_id, "best": scored.run_id} and scored.run_id != run.run_id
    check(out, scored, name="best")
    check(out, run)


@pytest.mark.parametrize("order", [(False, True), (True, False)], ids=["plain-then-delta", "delta-then-plain"])
def test_runs_of_both_layouts_are_built_upon(source, out, order, monkeypatch):
    copies, undisturbed = [], compact._copy

    def counted(*arguments):
        copies.append(undisturbed(*arguments))
        return copies[-1]

    first = night(source, out, delta=order[0])
    monkeypatch.setattr(compact, "_copy", counted)
    second = night(source, out, methods=("grad_cam", "layer_cam"), delta=order[1])
    assert copies and all(copies)
    assert [run.manifest.get("lake") for run in (first, second)] == ["default" if lake else None for lake in order]
    for run in (first, second):
        assert run.table("images").num_rows == 8 and len(run.sql("SELECT * FROM maps")) == 8 * len(run.manifest["methods"])
    check(out, second if order[1] else first)


@pytest.mark.parametrize(("before", "flags"), [(True, []), (False, ["--delta"])], ids=["as-its-base", "asked"])
def test_a_scored_run_is_committed(source, out, before, flags):
    base = night(source, out, delta=before)
    assert score.main(["--out", out, "--metrics", "energy", *flags]) == 0
    after = tables.open(out)
    assert after.run_id != base.run_id and after.manifest["lake"] == "default"
    check(out, after)
    assert load(out, "maps").version() == int(before)


def test_gc_keeps_what_versions_refer_to_and_each_version_it_keeps_is_whole(source, out, capsys):
    methods = ("grad_cam", "layer_cam", "xgrad_cam", "hires_cam")
    nights = [night(source, out, method) for method in methods]
    assert publish.main(["--out", out, "--run", nights[1].run_id]) == 0  # version 4 is the second night
    expected = {version: rows_of(run) for version, run in enumerate([*nights, nights[1]])}
    assert collect_garbage(out, keep=2).versions == 0, "what is young stays"
    capsys.readouterr()
    assert gc.main(["--out", out, "--keep", "2", "--min-age", "0"]) == 0
    assert all(load(out, "maps", version) for version in expected), "nothing is dropped without --delete"
    assert gc.main(["--out", out, "--keep", "2", "--min-age", "0", "--delete"]) == 0
    told = capsys.readouterr().out
    assert "lake/default/maps  versions 0 to 2\n" in told and "removed 1 run and" in told
    for version in (3, 4):
        for table, wanted in expected[version].items():
            assert rows(out, table, version) == wanted
    check(out, nights[1])
    assert publish.main(["--out", out]) == 0 and load(out, "maps").version() == 4, "what was committed is known without the old versions"
    for version in (0, 1, 2):
        with pytest.raises(DeltaError):
            load(out, "maps", version)
    left = {path.split("/")[2] for path in files.below(storage.join(out, "lake"))}
    assert left == {"_delta_log", *(run.run_id for run in nights[1:])}
    again = collect_garbage(out, keep=2, min_age=0)
    assert (again.size, again.versions) == (0, 0)
    check(out, night(source, out, "layer_cam", name="other"), name="other")
    check(out, night(source, out, "grad_cam"), version=5)


def test_versions_go_in_order_so_that_a_collection_that_is_killed_leaves_whole_ones(source, tmp_path, monkeypatch):
    out = str(tmp_path / "out")
    nights = [night(source, out, method) for method in ("grad_cam", "layer_cam", "xgrad_cam", "hires_cam")]
    undisturbed = storage.remove

    def killed(urls):
        undisturbed(urls[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        collect_garbage(out, keep=1, min_age=0, delete=True)
    monkeypatch.undo()
    for run in nights[1:]:
        assert rows_of(tables.open(out, run_id=run.run_id)) == rows_of(run)
    collect_garbage(out, keep=1, min_age=0, delete=True)
    check(out, nights[3], version=3)
    check(out, nights[3])


def test_files_of_a_run_that_never_ended_are_garbage(source, out):
    run = night(source, out)
    stray = storage.join(out, "lake/default/maps/20200101T000000000000Z-cut/method=grad_cam/part-1.parquet")
    files.write_bytes(stray, b"x")
    garbage = collect_garbage(out, keep=1, min_age=0, delete=True)
    assert [folder.path for folder in garbage.tables] == ["lake/default/maps/20200101T000000000000Z-cut"]
    check(out, run)


def test_a_version_has_all_of_its_files_or_there_is_none(source, out, capsys):
    before, after = night(source, out), night(source, out, "layer_cam", delta=False)
    storage.remove([after.urls("maps")[0]])
    assert publish.main(["--out", out]) == 2
    check(out, before)
    assert publish.main(["--out", out, "--run", before.run_id]) == 0
    storage.remove([before.urls("maps")[0]])
    for run in (before, after):
        assert publish.main(["--out", out, "--run", run.run_id]) == 2
        assert f"run {run.run_id} lacks 1 file, among them" in capsys.readouterr().err
        assert current(out) == {"default": before.run_id}, "what cannot be committed is not published either"


RIVAL = "import sys; from jobs import publish; sys.exit(publish.main(sys.argv[1:]))"


def test_of_publishers_at_once_the_last_in_current_json_has_every_table(source, out):
    runs = [night(source, out, method, delta=False) for method in ("grad_cam", "layer_cam", "xgrad_cam")]
    lines = [[sys.executable, "-c", RIVAL, "--out", out, "--run", run.run_id] for run in runs]
    rivals = [subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for line in lines]
    for rival in rivals:
        _, error = rival.communicate()
        assert rival.returncode == 0 or (rival.returncode == 3 and "meanwhile" in error), error
    assert publish.main(["--out", out]) == 0
    check(out, tables.open(out))
    for version in range(load(out, "maps").version() + 1):
        [run_id] = delta.run_ids(load(out, "maps", version))
        assert rows(out, "maps", version) == values(tables.open(out, run_id=run_id).table("maps"))


def test_tables_are_read_from_a_bucket_that_takes_nothing(source, s3_server, s3, monkeypatch):
    run, faults = night(source, f"{s3}/atlas"), Faults(share=1.0, kinds=("denied",), where="PUT ")
    expected = rows_of(run)
    with proxy(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert {table: rows(run.out, table) for table in run.tables} == expected
        with pytest.raises(PermissionError):
            files.write_bytes(f"{s3}/atlas/x", b"")
        assert faults.requests and set(faults.injected) == {"denied"}


@pytest.mark.parametrize("kind", ["denied", "error"])
def test_a_log_that_takes_no_version_ends_the_job_and_the_next_does_the_rest(source, s3_server, s3, monkeypatch, capsys, kind):
    monkeypatch.setitem(delta.CLIENT, "max_retries", "0")
    before, faults = night(source, f"{s3}/atlas"), Faults(share=1.0, kinds=(kind,), where="/lake/default/maps/_delta_log/000")
    with proxy(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(OSError, match="maps"):
            night(source, before.out, "layer_cam")
        capsys.readouterr()
        assert publish.main(["--out", before.out]) == 1
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and "\x1b" not in line and "run the job again" in line
        assert faults.injected[kind]
        faults.share = 0.0
        assert rows(before.out, "maps") == values(before.table("maps"))
        after = night(source, before.out, "layer_cam")
        assert after.run_id == tables.open(before.out).run_id != before.run_id
        check(before.out, after)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stumble_of_each_kind_costs_nothing_but_a_second_try(source, s3_server, s3, monkeypatch, kind):
    faults = Faults(share=0.1, kinds=(kind,), where="/lake/")
    with proxy(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        nights = [night(source, f"{s3}/atlas", method) for method in ("grad_cam", "layer_cam")]
        assert faults.injected[kind]
        faults.share = 0.0
        for version, run in enumerate(nights):
            check(run.out, run, version)
        assert {load(nights[0].out, table).version() for table in nights[1].tables} == {1}


PROFILE = (
    "[default]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n[nightly]\naws_access_key_id = AK\naws_secret_access_key = SK\n"
)
SIGNED = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK"}


@pytest.mark.parametrize(
    ("environment", "configuration", "expected"),
    [
        ({"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_SESSION_TOKEN": "T"}, {}, SIGNED | {"aws_session_token": "T"}),
        ({"AWS_PROFILE": "nightly"}, {}, SIGNED),
        ({}, {"key": "AK", "secret": "SK"}, SIGNED),
        ({}, {"anon": True}, {"aws_skip_signature": "true"}),
    ],
    ids=["environment", "profile", "fsspec", "anonymous"],
)
def test_the_store_is_asked_as_s3fs_asks_it(s3, s3_server, tmp_path, monkeypatch, environment, configuration, expected):
    import fsspec

    (tmp_path / "credentials").write_text(PROFILE)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", configuration)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    where = {"aws_endpoint_url": s3_server, "aws_region": "us-east-1", "aws_allow_http": "true"}
    assert delta._options(f"{s3}/atlas") == where | expected | delta.CLIENT
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_run_of_types_that_delta_has_not_is_refused_and_published_nowhere(source, out, capsys):
    before, run = night(source, out), night(source, out, name="old", delta=False)
    columns = run.table("maps").drop_columns(["method"])
    place_of_map = columns.schema.get_field_index("map")
    columns = columns.set_column(place_of_map, "map", columns["map"].cast(pa.list_(pa.uint8())))
    [entry] = [entry for entry in run.manifest["files"] if entry["table"] == "maps"]
    entry |= write_file(run.location.url(entry["path"]), columns)
    files.write_json(storage.join(out, "runs", run.run_id, "run.json"), run.manifest)
    assert publish.main(["--out", out, "--run", run.run_id]) == 2
    assert "types of an earlier version" in capsys.readouterr().err
    assert current(out)["default"] == before.run_id
    check(out, before)


def write_file(url, rows) -> dict:
    content = parquet_bytes([rows])
    files.write_bytes(url, content)
    return {"bytes": len(content)}


def test_names_numbers_and_places_that_cannot_be_are_refused_before_anything_is_read(source, tmp_path, monkeypatch):
    for name in ("../up", "a b", "ä", ""):
        with pytest.raises(Refusal, match="--name"):
            night(source, str(tmp_path / "out"), name=name)
    for folder in ("with space", "per%20cent", "run=1"):
        with pytest.raises(Refusal, match="another place"):
            night(source, str(tmp_path / folder))
    with pytest.raises(Refusal, match="neither"):
        night(source, "memory://bucket/out")
    with pytest.raises(Refusal, match="no id of a run"):
        delta.transaction("yesterday")
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(Refusal, match="pip install 'saliency-atlas.delta.'"):
        night(source, str(tmp_path / "out"))
    assert not (tmp_path / "out" / "runs").exists()


def test_transactions_are_numbered_in_the_order_of_runs():
    ids = ["20261127T091108883045Z-022cd18a", "20261127T091108883046Z-00000000", "20261127T091109000000Z-00000000"]
    assert delta.transaction("19700101T000001000002Z-ab") == 1_000_002
    assert all(delta.transaction(earlier) < delta.transaction(later) for earlier, later in pairwise(ids))
