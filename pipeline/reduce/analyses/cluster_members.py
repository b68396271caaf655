"""The images of the clusters of maps, with the outlier score of each and its place in the plane of the class's two principal axes."""

from collections.abc import Iterator

from pipeline.reduce.analyses.registry import analysis
from pipeline.reduce.analyses.rows import Rows

ABOUT = ("model", "method", "target", "class_id", "cluster")


@analysis("run")
def cluster_members(clusters: Rows) -> Iterator[dict]:
    """A row an image and target, for those that `clusters` has. `outlier` is high for the images of a suspicious cluster, `distance` for a single
    image as well.
    """
    for batch in clusters.batches(*ABOUT, "members"):
        for row in batch.to_pylist():
            about = {name: row[name] for name in ABOUT}
            yield from (about | member for member in row["members"] or ())
