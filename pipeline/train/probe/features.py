"""Features of a published run as arrays on disk, from which training reads a dataset of any size.

N images, D features
"""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.refusal import Refusal
from pipeline.tables.identity import seed_of
from pipeline.tables.read import Run

ROWS = 4096  # rows held in memory at a time


@dataclass(frozen=True)
class Features:
    """x float16 [N D] and labels int32 [N]; memory maps, so that only the rows in use are in memory."""

    x: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def columns(self, columns: slice) -> "Features":
        """The same images with some of the columns."""
        return Features(self.x[:, columns], self.labels)


def collect_features(
    run: Run, splits: Mapping[str, Collection[str]], folder: Path, held_out: float = 0.0, seed: int = 0
) -> dict[str, Features]:
    """The labelled images of each split (shards by name) in the order of their ids; an image without a label or a feature is left out.

    Parameters:
        held_out: the share of `train` that becomes `val`, each image by its id and the seed, where `splits` has no val.

    Raises:
        Refusal: where a split has no labelled image, or a feature of the run is not finite.
    """
    split_of = {shard: split for split, shards in splits.items() for shard in shards}
    names = [*splits, *(["val"] if held_out and "val" not in splits else [])]
    query = "SELECT image_id, shard, label, feature FROM features JOIN images USING (image_id) WHERE label IS NOT NULL ORDER BY image_id"
    with ExitStack() as stack:
        files = {name: [stack.enter_context(open(folder / f"{name}.{part}", "wb")) for part in ("x", "labels")] for name in names}
        connection = stack.enter_context(run.connect())
        for batch in connection.sql(query).to_arrow_reader(ROWS):
            numbers = batch["feature"].flatten().to_numpy(zero_copy_only=False)
            x = numbers.reshape(batch.num_rows, len(numbers) // max(1, batch.num_rows)).astype(np.float16)
            if not np.isfinite(x).all():
                image = batch["image_id"][int(np.argmin(np.isfinite(x).all(1)))]
                raise Refusal(
                    f"run {run.run_id} holds a feature of {image} that is not finite; compute the features anew, with another --out"
                )
            labels = batch["label"].to_numpy(zero_copy_only=False).astype(np.int32)
            shards, images = batch["shard"].to_pylist(), batch["image_id"].to_pylist()
            share = held_out if len(names) > len(splits) else 0.0
            split = np.array([_split(split_of.get(shard), image, share, seed) for shard, image in zip(shards, images, strict=True)])
            for name, (features, classes) in files.items():
                features.write(x[split == name].tobytes())
                classes.write(labels[split == name].tobytes())
    return {name: _memory_map(folder, name) for name in names}


def _split(split: str | None, image_id: str, held_out: float, seed: int) -> str:
    """The split of one image; whether it is held out of `train` does not depend on other images."""
    if split == "train" and held_out and seed_of(seed, "held out", image_id) / (1 << 63) < held_out:
        return "val"
    return split or ""


def _memory_map(folder: Path, name: str) -> Features:
    """The files of one split as arrays."""
    if not (folder / f"{name}.labels").stat().st_size:
        raise Refusal(f"no image of the {name} split has both a label and a feature; the run's errors table says why")
    labels = np.memmap(folder / f"{name}.labels", np.int32, "r")
    return Features(np.memmap(folder / f"{name}.x", np.float16, "r").reshape(len(labels), -1), labels)
