"""The usual names of the splits of a dataset, and the folders that are named so."""

import re
from collections.abc import Collection

NAMES = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development"),
    "test": ("test", "testing", "tst"),
}
SPLIT_OF = {name: split for split, names in NAMES.items() for name in names}


def split_of(name: str) -> str | None:
    """The split that a name means, whatever its case: train, val or test; None where it is no usual name of any."""
    return SPLIT_OF.get(name.strip().lower())


def split_folders(names: Collection[str]) -> dict[str, str]:
    """Folder -> split, of folders that lie side by side; empty unless all of them are splits.

    Each has a usual name of a split, or one in a longer name whose other words all of them share: seg_train and seg_test, train2017 and val2017.
    """
    splits = {name: split for name in names if (split := split_of(name))}
    if splits.keys() == {*names}:
        return splits
    words = {name: re.findall(r"[^\W\d_]+", name.lower()) for name in names}
    longer = {name: [word for word in words[name] if word in SPLIT_OF] for name in names}
    if len({*names}) < 2 or any(len(found) != 1 for found in longer.values()):
        return {}
    splits = {name: SPLIT_OF[longer[name][0]] for name in names}
    rest = {tuple(re.sub(r"[\W_]+", " ", name.lower()).replace(longer[name][0], "*").split()) for name in names}
    return splits if len(rest) == 1 and len({*splits.values()}) == len(splits) else {}


def innermost(folder: str, paths: Collection[str]) -> str:
    """A folder, or the copy of its name in it that all paths (at least one) lie in, as archives leave it: train/train/cat."""
    path = folder
    while all(each.startswith(f"{path}/{folder}/") for each in paths):
        path = f"{path}/{folder}"
    return path
