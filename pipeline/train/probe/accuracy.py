"""The accuracy of a probe: top-1 and top-5, over all images of a split and over those of each class.

C classes
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipeline.reduce.moments import share_interval
from pipeline.train.probe.features import Features
from pipeline.train.probe.solvers import Linear, chunks, ranks

ACCURACY = pa.schema(
    [
        *[(name, pa.string()) for name in ("probe", "pool", "solver")],
        ("setting", pa.float64()),
        ("step", pa.int32()),
        ("split", pa.string()),
        ("fitted", pa.bool_()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("n", pa.int64()),
        *[(f"top{k}{end}", pa.float64()) for k in (1, 5) for end in ("", "_low", "_high")],
    ]
)


def measure(name: str, pool: str, linear: Linear, splits: Mapping[str, Features], names: Sequence[str]) -> list[dict]:
    """Rows of the accuracy table; class_id is null in the row over all images."""
    rows, about = [], {"probe": name, "pool": pool, "solver": linear.solver, "setting": linear.setting, "step": linear.step}
    for split, features in splits.items():
        count, top1, top5 = (np.zeros(len(names), np.int64) for _ in range(3))
        for x, labels in chunks(features):
            ahead = ranks(linear.logits(x), labels)
            count += np.bincount(labels, minlength=len(names))
            top1 += np.bincount(labels[ahead < 1], minlength=len(names))
            top5 += np.bincount(labels[ahead < 5], minlength=len(names))
        overall = (None, None, count.sum(), top1.sum(), top5.sum())
        for class_id, class_name, n, in_top1, in_top5 in [overall, *zip(range(len(names)), names, count, top1, top5, strict=True)]:
            shares = _share("top1", in_top1, n) | _share("top5", in_top5, n)
            rows.append({**about, "split": split, "class_id": class_id, "class_name": class_name, "n": int(n), **shares})
    return rows


def _share(name: str, hits: int, n: int) -> dict[str, float | None]:
    """The share of hits, and the ends of its exact interval at 95 %; None of no images."""
    share = hits / n if n else None
    low, high = share_interval(share, n) or (None, None)
    return {name: share, f"{name}_low": low, f"{name}_high": high}
