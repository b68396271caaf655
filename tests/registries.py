"""Registries as they were: what a test installs is gone after it, and so is the module it came from."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.spec import plugins


@contextmanager
def registries() -> Iterator[None]:
    kept = [(table, dict(table)) for table in (METHODS, METRICS, plugins._INSTALLED)]
    try:
        yield
    finally:
        for table, content in kept:
            table.clear()
            table.update(content)
        sys.modules.pop("tests.own", None)
