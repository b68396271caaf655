"""A pack job as a value: the fields of the command line and of a `--config` file."""

from dataclasses import dataclass
from typing import Literal

from pipeline.refusal import Count, Refusal, Whole, check_numbers
from pipeline.spec.command_line import reachable_from_cluster


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A dataset directory in its official layout -> WebDataset shards with labels and annotations."""

    root: str
    """The dataset's folder, local or any fsspec URL."""
    out: str
    """The folder or URL of the shards: SPLIT-00000.tar ..., classes.txt, attributes.json and, last, pack.json."""
    layout: str = "auto"
    """The layout by name, or auto to recognise it by its files."""
    split: tuple[str, ...] = ()
    """Splits to pack: train val test, or usual names of theirs; all there are by default."""
    level: str | None = None
    """The level of the classes, where the layout has several: family, variant, manufacturer ..."""
    images_per_shard: Count = 1000
    """Images in one shard."""
    resize: Count | None = None
    """Bring the shorter side of larger images to N pixels and encode them as JPEG; by default files are copied byte for byte."""
    skip_missing: bool = False
    """Leave out images that are missing or cannot be read, and classes without training images be; pack.json lists them."""
    workers: Whole | None = None
    """Shards written side by side on Ray; as many as there are CPUs by default. 0 runs in this process, without Ray."""
    log: Literal["text", "json"] = "text"
    """The output on the screen: readable lines, or events, one JSON object a line."""

    def __post_init__(self):
        check_numbers(self)
        if not self.root or not self.out:
            raise Refusal("--root and --out must name a place")
        reachable_from_cluster({"--root": (self.root,), "--out": (self.out,)})
