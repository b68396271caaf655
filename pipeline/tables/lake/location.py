"""Where the files of a run lie: below its own folder or, where its run.json names a lake, below the addresses of that lake's tables."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline import storage


def table_url(out: str, lake: str, table: str) -> str:
    """The address of the table that the runs published as `lake` share."""
    return storage.join(out, "lake", lake, table)


@dataclass(frozen=True)
class Location:
    """The place of a run's files: below runs/RUN, or below lake/LAKE/TABLE/RUN, where Delta tables may refer to them."""

    out: str
    run_id: str
    lake: str | None = None

    @staticmethod
    def of(out: str, manifest: Mapping) -> "Location":
        """The place that a run.json names; runs of earlier versions name none."""
        return Location(out, manifest["run_id"], manifest.get("lake"))

    def folder(self, table: str) -> str:
        """The URL of the folder of one of its tables."""
        if self.lake is None:
            return storage.join(self.out, "runs", self.run_id, table)
        return storage.join(table_url(self.out, self.lake, table), self.run_id)

    def url(self, path: str) -> str:
        """The URL of a file by its path in run.json, which begins with its table."""
        table, _, rest = path.partition("/")
        return storage.join(self.folder(table), rest)
