"""The labels of a job's shards, counted while they are listed: what can be refused for them is refused before the network sees an image."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pipeline import sources
from pipeline.refusal import Refusal, counted
from pipeline.sources.labels import Classes, resolve

Accept = Callable[[Mapping[str, Mapping[int, int]]], None]  # takes the images of each class of each shard by its name; may refuse them


@dataclass(frozen=True)
class Listed:
    """The index of the shard at a position of the list, the images of each class, and the first reason why a label is no class."""

    position: int
    index: sources.Index
    classes: dict[int, int]
    reason: str | None


def index_and_count(classes: Classes, names_are_labels: bool, numbered: tuple[int, sources.Shard]) -> Listed:
    """Index a shard and resolve its labels, each once; the index goes on without them."""
    position, index = sources.numbered_index(numbered)
    counts: Counter[int] = Counter()
    reason: str | None = None
    for label, count in index.labels if names_are_labels else [(label, n) for label, n in index.labels if not isinstance(label, str)]:
        number, _, problem = resolve(label, classes)
        if number is not None:
            counts[number] += count
        elif problem:
            reason = reason or problem[1]
    return Listed(position, replace(index, labels=()), dict(counts), reason)


@dataclass
class Census:
    """The images of all shards of a job, those with a label, and those whose label is a class, by class and shard."""

    images: int = 0
    labelled: int = 0
    usable: int = 0
    reason: str | None = None
    by_shard: dict[str, Counter[int]] | None = field(default=None)

    def add(self, shard: sources.Shard, listed: Listed) -> None:
        self.images += listed.index.count
        self.labelled += listed.index.labelled
        self.usable += sum(listed.classes.values())
        self.reason = self.reason or listed.reason
        if self.by_shard is not None:
            self.by_shard.setdefault(shard.name, Counter()).update(listed.classes)

    def refuse_nothing_to_explain(self, source: Iterable[str], targets: Iterable[str], problems: Iterable[sources.Problem]) -> None:
        """Raise Refusal where there is no image, or where `targets`, which all need a label, have none that is one of the network's classes."""
        if not self.images:
            problem = next(iter(problems), None)
            raise Refusal(f"there is no image in {' '.join(source)}" + (f": {problem.message}" if problem else ""))
        names = " ".join(sorted(targets))
        if self.usable or not names:
            return
        nothing = f"so --targets {names} explains nothing"
        if not self.labelled:
            raise Refusal(f"no image carries a label, {nothing}; use --targets predicted")
        raise Refusal(
            f"of {counted(self.labelled, 'images')} with a label, none is of a class of the network, {nothing}: "
            f"{self.reason or 'the class names are not known'}; give --classes FILE with the labels' names, or use --targets predicted"
        )
