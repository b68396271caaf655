"""From the labels that shards carry (class numbers or names) to class indices of the network."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline import storage
from pipeline.refusal import Refusal
from pipeline.sources.sample import WHOLE
from pipeline.sources.shard import Shard


@dataclass(frozen=True)
class Classes:
    """The network's classes in their order; `names` is empty where only their number is known, and 0 of them accept any number."""

    num_classes: int
    names: tuple[str, ...] = ()

    def __post_init__(self):
        if self.names and len(self.names) != self.num_classes:
            raise Refusal(f"{len(self.names)} class names for a network of {self.num_classes} classes; give one a class, in class order")
        repeated = [name for name, times in Counter(self.names).items() if times > 1]
        if repeated:
            raise Refusal(f"class name {repeated[0]!r} comes more than once; a name must mean one class")

    @cached_property
    def position(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}


def read_names(url: str) -> tuple[str, ...]:
    """Class names from a text file, one a line, in class order.

    Raises:
        Refusal: no such file, or not text.
    """
    try:
        lines = storage.read_bytes(url).decode("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise Refusal(f"there is no file of class names at {url}") from error
    except UnicodeDecodeError as error:
        raise Refusal(f"{url} is not a text file with one class name a line") from error
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(line.strip() for line in lines)


def folder_names(shards: Iterable[Shard]) -> tuple[str, ...]:
    """The sorted class directories of image folders, torchvision's class order."""
    keys = (url[len(shard.root) :].lstrip("/") for shard in shards if shard.root for url in shard.urls)
    return tuple(sorted({key.split("/")[0] for key in keys if "/" in key}))


def in_number_order(names: Sequence[str]) -> tuple[str, ...] | None:
    """Sorted names, as 0 1 10 2, in the order of the numbers in them, as 0 1 2 10; None where that is the order they are in."""
    ordered = tuple(sorted(names, key=_by_numbers))
    return None if ordered == tuple(names) else ordered


def are_numbers(names: Iterable[str]) -> bool:
    """Whether every name is a whole number."""
    return all(re.fullmatch(r"[+-]?[0-9]{1,18}", name) for name in names)


def _by_numbers(name: str) -> tuple:
    if are_numbers([name]):
        return (0, int(name), name)
    parts = re.split(r"([0-9]{1,18})", name)
    return (1, [(part, int(number)) for part, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)], name)


def unknown_folders(folders: Sequence[str], classes: Classes, names_in: str) -> str | None:
    """The folders that name no class and are no class number either, as a line; None where there are none."""
    unknown = [folder for folder in folders if resolve(folder, classes)[2]]
    if not unknown:
        return None
    few = ", ".join(map(repr, unknown[:3])) + (" ..." if len(unknown) > 3 else "")
    return f"{len(unknown)} of {len(folders)} folders are named as no class of {names_in}: {few}"


def resolve(label: int | str | None, classes: Classes) -> tuple[int | None, str | None, tuple[str, str] | None]:
    """Return (class index, class name, problem); all None for no label.

    The problem is (OutOfRangeLabel | UnknownLabel, message). A text that is a class name means that class, even
    where it looks like a number: folders named 0, 1, 10, 2 are classes in that order.
    """
    if label is None:
        return None, None, None
    if isinstance(label, str) and label in classes.position:
        return classes.position[label], label, None
    if isinstance(label, str) and not re.fullmatch(r"[+-]?[0-9]{1,18}", label):
        hint = "not one of the class names" if classes.names else "a name, and the class names are not known: give them in a file"
        if re.fullmatch(WHOLE, label):
            hint += f"; class {int(label.split('.')[0])} is written without a point"
        return None, None, ("UnknownLabel", f"label {label[:80]!a} is {hint}")
    index = int(label)
    if not classes.num_classes and 0 <= index < 2**31:  # nothing to be outside of
        return index, None, None
    if not 0 <= index < classes.num_classes:
        text = index if abs(index) < 10**18 else "of more than 18 digits"
        return None, None, ("OutOfRangeLabel", f"label {text} is outside 0 ... {classes.num_classes - 1}")
    return index, classes.names[index] if classes.names else None, None
