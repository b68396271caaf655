"""A report as a value: the fields of its command line."""

from dataclasses import dataclass

from pipeline.refusal import Count, Positive, Whole, check_numbers


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a published run as a folder that a browser opens from disk, from a bucket or offline: tables, charts, pictures and maps."""

    out: str
    """Where tables go: the --out of the jobs. It is only read, but for the report itself."""
    name: str = "default"
    """The run published under this name."""
    run: str | None = None
    """Any run by its id, in place of --name."""
    against: str | None = None
    """Another run to compare it with, once `atlas compare` has: a run id, a published name, or `previous` for the run before."""
    to: str | None = None
    """Folder or URL of the report; <out>/reports/<run id> by default."""
    images: Count = 500
    """At most so many images are shown; more are sampled by --seed, those of --keys and --select are the first ones."""
    max_mb: Positive = 30.0
    """The report has at most so many megabytes (10^6 bytes): fewer images are shown where more do not fit."""
    seed: Whole = 0
    """Draws the sample."""
    classes: tuple[str, ...] = ()
    """Images of these labels alone, by name or number."""
    keys: str | None = None
    """Images that a file lists, an image_id a line, in its order."""
    select: str | None = None
    """Images that a question in SQL returns in a column image_id, in its order."""
    source: tuple[str, ...] = ()
    """Where the shards are now, if not where the run has read them."""
    pictures: bool = True
    """Show thumbnails of the images, which are read from the shards."""

    def __post_init__(self):
        check_numbers(self)
