"""A run is published whole or not at all: its tables, then run.json, then one conditional write of current.json."""

import json

from pipeline import storage
from pipeline.refusal import Refusal
from pipeline.tables import files


class Overtaken(Exception):
    """Another job has published under this name since this one began."""


class TooManyFailed(Exception):
    """More failed than the job allows, so its run is not published."""


def current(out: str) -> dict[str, str]:
    """The published run of each name; empty where nothing is published yet."""
    content, _ = files.read_versioned(storage.join(out, "current.json"))
    return json.loads(content) if content else {}


def read_manifest(out: str, run: str) -> dict:
    """The run.json of a run."""
    return json.loads(storage.read_bytes(storage.join(out, "runs", run, "run.json")))


def flip(out: str, name: str, run: str, expected: str | None, single_writer: bool = False) -> None:
    """Point `name` at `run`, provided it still points at `expected`; other names are left as they are.

    Raises:
        Overtaken: where `name` points elsewhere by now. Nothing is lost: the run is complete and stays readable.
        Refusal: where the store has no conditional write and `single_writer` was not promised.
    """
    for _ in range(20):
        content, version = files.read_versioned(storage.join(out, "current.json"))
        names = json.loads(content) if content else {}
        if names.get(name) == run:
            return  # an earlier try did arrive, and only its answer was lost
        if names.get(name) != expected:
            raise Overtaken(f"{name!r} was published by another job meanwhile ({names.get(name)}); this run is complete as {run}")
        names[name] = run
        content = json.dumps(names, indent=1, sort_keys=True).encode()
        if files.replace(storage.join(out, "current.json"), content, version, single_writer):
            return
    raise Refusal(f"current.json below {out} changed 20 times while it was being replaced; run the job again")
