"""How long each analysis of maps takes for an image, and the memory that it needs: made-up maps, a process an analysis.

python -m tests.bench.analyses 200 10    # images, methods; each method has maps of two targets
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from pipeline.reduce.analyses import ANALYSES
from pipeline.reduce.analyses.images import Image, StoredMap
from pipeline.reduce.units import as_table
from pipeline.tables import schema

SIZE = (224, 224)
BOX = np.array([[0.2, 0.2, 0.8, 0.8]])


def images(count: int, methods: int) -> Iterator[Image]:
    """Images with maps of 14 x 14 cells and, of every third method, of 56 x 56."""
    rng = np.random.default_rng(0)
    for i in range(count):
        maps = [
            StoredMap(
                "m", f"m{k}", target, t, (), rng.integers(0, 256, (56, 56) if k % 3 == 2 else (14, 14), np.uint8), 0.0, 1.0, "bilinear"
            )
            for k in range(methods)
            for t, target in enumerate(("label", "second"))
        ]
        yield Image(f"i{i}", SIZE, 0, i % 2, BOX, maps)


def measure(name: str, count: int, methods: int) -> None:
    """Print the milliseconds and the memory of one analysis in this process."""
    start = time.perf_counter()
    for _ in images(count, methods):
        pass
    drawn = time.perf_counter()
    rows = as_table(ANALYSES[name].function(images(count, methods)), schema.ANALYSES[name])
    seconds = time.perf_counter() - drawn - (drawn - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:20} {1000 * seconds / count:8.1f} ms an image {peak:6.2f} GiB {rows.num_rows:8} rows", flush=True)


def main() -> None:
    """Put made-up images to every analysis of classes, each in a fresh process."""
    count, methods = map(int, sys.argv[1:3])
    for name, entry in ANALYSES.items():
        if entry.unit == "class":
            command = f"from tests.bench.analyses import measure; measure({name!r}, {count}, {methods})"
            subprocess.run([sys.executable, "-c", command], check=True)


if __name__ == "__main__":
    main()
