"""Numbers of images -> their means, over all images and over those of each class, with intervals at 95 %."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.reduce.moments import moments


def rows_by_scope(table: pa.Table, keys: Sequence[str], columns: Sequence[str]) -> Iterator[dict]:
    """A row for each combination of `keys`, each column as a `number`, and each scope: `all`, or a class.

    `table` has `image_id` and `label` besides. The interval is that of the bootstrap over images, null below two of them.
    """
    for values in sorted(table.select(keys).group_by(keys).aggregate([]).to_pylist(), key=lambda row: tuple(row.values())):
        chosen = table
        for key, value in values.items():
            chosen = chosen.filter(pc.equal(chosen[key], value))
        chosen = chosen.sort_by("image_id")
        numbers = np.array([chosen[column].cast("float64").to_numpy() for column in columns])
        images, labels = chosen["image_id"].to_numpy(), chosen["label"].fill_null(-1).to_numpy()
        classes = np.unique(labels[labels >= 0])
        of_class = np.where(labels >= 0, np.searchsorted(classes, labels), -1)
        for scopes, group in ((["all"], np.zeros(len(images), int)), ([*map(str, classes)], of_class)):
            statistics = moments(numbers, images, group, len(scopes))
            size = np.bincount(group[group >= 0], minlength=len(scopes))
            for c, column in enumerate(columns):
                for i, scope in enumerate(scopes):
                    row = {name: float(array[c, i]) for name, array in statistics.items() if np.isfinite(array[c, i])}
                    n = int(row.pop("n"))
                    yield {**values, "number": column, "scope": scope, "n": n, "n_null": int(size[i]) - n, **row}
