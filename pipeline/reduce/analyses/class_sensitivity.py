"""Class sensitivity: how alike the maps of two questions about one image are (E54). A low value is no praise, since noise has it too.

H W pixels
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np

from pipeline.families import METHODS
from pipeline.maps.render import unit
from pipeline.reduce.analyses.disagreement import standard_ranks
from pipeline.reduce.analyses.images import Image, StoredMap
from pipeline.reduce.analyses.registry import analysis
from pipeline.reduce.analyses.rows import Rows
from pipeline.reduce.analyses.scopes import rows_by_scope
from pipeline.spec.explain_spec import ExplainSpec

LABEL, NONE, RANDOM = "label", "none", "random"
SSIM = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}  # as Wang et al. 2004 and `sanity`
Pair = tuple[StoredMap, StoredMap]


def _lacks(spec: ExplainSpec, **settings) -> str | None:
    plain = [target for target in spec.targets if target.name not in (NONE, "attributes")]
    compared = len(plain) > 1 and any(target.alias == LABEL for target in plain) or any(target.name == "pairs" for target in plain)
    if not any(not METHODS[method.name].class_free for method in spec.methods):
        return "no class enters the methods of the run"
    return None if compared else "it compares maps of the label with those of another target; add --targets label second, or pairs:FILE"


@analysis("class", lacks=_lacks)
def class_sensitivity(images: Iterable[Image], *, ssim: bool = True) -> Iterator[dict]:
    """How alike a method's maps of two targets are (E54). One that looks the same whatever is asked explains no class.

    The label is compared with each other target of the run, and of `pairs:FILE` the class with each class it makes a pair with. Two targets
    that come to the same question about an image, as `predicted` where the label is predicted, have no row.

    Spearman's correlation over the cells, and SSIM of the maps as metrics see them (Gaussian weights, data range 1), dear and left out by
    `ssim=false`. Both are 1 for a method without a class, by definition, and null where a map is constant. The rows of the control `random`
    are the floor: its map with that of the next image of the same file, both of target `none`.
    """
    noise: list[tuple[dict, StoredMap, tuple[int, int]]] = []
    for image in images:
        pairs = [*target_pairs(image.maps)]
        for method, a, b, maps in (*pairs, *class_free(image.maps, pairs)):
            yield {**_names(image, method, a, b, maps[0]), **alike(maps, image.size, ssim)}
        noise += [(_names(image, RANDOM, NONE, NONE, stored), stored, image.size) for stored in image.maps if stored.method == RANDOM]
    for (names, one, size), (_, other, _) in pairwise(sorted(noise, key=lambda item: item[0]["image_id"])):
        yield {**names, **alike((one, other), size, ssim)}


def _names(image: Image, method: str, a: str, b: str, stored: StoredMap) -> dict:
    return {"image_id": image.image_id, "model": stored.model, "label": image.label, "method": method, "a": a, "b": b}


def target_pairs(maps: Sequence[StoredMap]) -> Iterator[tuple[str, str, str, Pair]]:
    """Method, two targets and their maps, for every pair of targets that is compared."""
    for method in sorted({stored.method for stored in maps}):
        own = {stored.target: stored for stored in maps if stored.method == method and stored.target != NONE}
        for a, b in combinations(sorted(own, key=lambda target: (target != LABEL, not target.endswith("#own"), target)), 2):
            prefix, _, suffix = b.partition("#")
            plain = a == LABEL and not suffix
            of_pair = a == f"{prefix}#own" and suffix.startswith("other_")
            if (plain or of_pair) and own[a].question != own[b].question:
                yield method, a, b, (own[a], own[b])


def class_free(maps: Sequence[StoredMap], pairs: Sequence[tuple[str, str, str, Pair]]) -> Iterator[tuple[str, str, str, Pair]]:
    """The same for methods without a class, of which both maps are one."""
    for stored in maps:
        if stored.target == NONE and stored.method != RANDOM:
            for a, b in sorted({(a, b) for _, a, b, _ in pairs}):
                yield stored.method, a, b, (stored, stored)


def alike(maps: Pair, size: tuple[int, int], ssim: bool) -> dict[str, float | None]:
    """How alike two maps are: Spearman's correlation over the cells, and SSIM at `size` (H, W)."""
    ranks = [standard_ranks(stored.cells) for stored in maps]
    if any(stored.constant for stored in maps) or ranks[0] is None or ranks[1] is None or ranks[0].shape != ranks[1].shape:
        return {"spearman": None, "ssim": None}
    found: dict[str, float | None] = {"spearman": float(ranks[0] @ ranks[1])}
    if not ssim:
        return found | {"ssim": None}
    from skimage.metrics import structural_similarity

    drawn = [unit(stored.drawn(size)).astype(np.float64) for stored in maps]
    return found | {"ssim": float(structural_similarity(*drawn, **SSIM))}


@analysis("method", lacks=_lacks)
def class_sensitivity_summary(class_sensitivity: Rows) -> Iterator[dict]:
    """Means over images of `class_sensitivity`, with bootstrap intervals; those of `random` are the floor, and low alone is no praise."""
    keys, columns = ("model", "method", "a", "b"), ("spearman", "ssim")
    yield from rows_by_scope(class_sensitivity.read("image_id", "label", *keys, *columns), keys, columns)
