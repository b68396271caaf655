"""Attribute examination (Finer-CAM supplement A.2): does the map that tells a class from its nearest rival show what tells them apart?

N images, C classes, A attributes
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from pipeline import storage
from pipeline.notebook import explain
from pipeline.questions import Network
from pipeline.refusal import Refusal
from pipeline.tables.maps import stored
from pipeline.targets import by_weights

EXAMINED = pa.schema(
    [
        ("image", pa.int64()),
        ("method", pa.string()),
        ("class_id", pa.int32()),
        ("rival", pa.int32()),
        ("attribute", pa.string()),
        ("difference", pa.float64()),
        ("like_finer", pa.float64()),
        ("like_label", pa.float64()),
    ]
)


def attribute_examination(
    images: np.ndarray,
    labels: Sequence[int],
    network: Network,
    attributes: str,
    *,
    methods: Sequence[str] = ("grad_cam",),
    base: str = "bird",
    top: int = 3,
    gamma: float = 0.6,
) -> pa.Table:
    """How like the map of an attribute's text is to the map of an image's class, plain and against its rival.

    The rival d of a class c is the one whose classifier row is nearest to c's by cosine; its attributes are the `top` with the largest
    value_c - value_d above 0, the first of equals. An attribute's map is that of `text_contrast:<attribute>|<base>`, the class's that of
    `label` and of `finer` against d alone. How like two maps are is Pearson's correlation over their cells.

    Parameters:
        images: uint8 [N 3 H W] at the network's input size, RGB.
        labels: class indices [N].
        network: one of open_clip, its classes a linear probe or texts.
        attributes: file or URL of {"attributes": [A names], "values": [[A shares in 0..1] for each class]}, as `jobs.pack` writes it.
        methods: as on the command line, of those that a class enters.

    Returns:
        One row an image, method and attribute: image (its position), class_id, rival, attribute (the text), difference, like_finer and
        like_label, null where one of the two maps is constant or there is none.

    Raises:
        Refusal: where the file is of another form or number of classes, or the network has no text tower or no classifier.
    """
    names, values = read(attributes)
    weights = network.load().class_weights()
    classes = 0 if weights is None else len(weights)
    if classes != len(values) or classes < 2:
        raise Refusal(f"{attributes} describes {len(values)} classes, {network.name} has {classes}; both must have the same, two or more")
    wrong = next((label for label in labels if not 0 <= label < len(values)), None)
    if wrong is not None:
        raise Refusal(f"label {wrong} is outside 0 ... {len(values) - 1}, the classes of {attributes}")
    rivals, differing = by_weights(weights, torch.arange(classes, device=weights.device))[:, 0].tolist(), {}
    for c in sorted({*labels}):
        apart = values[c] - values[rivals[c]]
        chosen = [a for a in np.argsort(-apart, kind="stable")[:top] if apart[a] > 0]
        differing[c] = [(phrase(names[a]), apart[a]) for a in chosen]
    texts = dict.fromkeys([base, *(text for each in differing.values() for text, _ in each)])
    backbone = replace(network, phrases=tuple((text, ()) for text in texts)).load()
    rows = []
    for c, apart in differing.items():
        mine = [i for i, label in enumerate(labels) if label == c]
        own = ["label", f"finer(T=1,reference=weight_cosine,gamma={gamma})"]
        contrasts = [f"attribute_{k}=text_contrast:{text}|{base}(gamma={gamma})" for k, (text, _) in enumerate(apart)]
        found = explain(images[mine], [c] * len(mine), backbone, methods, own + contrasts, keys=mine, no_store=("features", "logits"))
        maps = {(row["image_id"], row["method"], row["target"]): stored(row) for row in found["maps"].to_pylist()}
        for image, method in dict.fromkeys((image, method) for image, method, _ in maps):
            for k, (text, difference) in enumerate(apart):
                shown = maps.get((image, method, f"attribute_{k}"))
                like = {f"like_{of}": correlation(shown, maps.get((image, method, of))) for of in ("finer", "label")}
                about = {"image": int(image), "method": method, "class_id": c, "rival": rivals[c], "attribute": text}
                rows.append({**about, "difference": difference, **like})
    return pa.Table.from_pylist(sorted(rows, key=lambda row: (row["image"], row["method"])), EXAMINED)


def read(url: str) -> tuple[list[str], np.ndarray]:
    """Names [A] and values [C A] of a file of attributes.

    Raises:
        Refusal: where there is no such file, or it is not one of attributes.
    """
    try:
        given = json.loads(storage.read_bytes(url))
        names, values = given["attributes"], np.array(given["values"], dtype=np.float64)
        if not all(isinstance(name, str) for name in names) or values.ndim != 2 or values.shape[1] != len(names):
            raise ValueError
    except FileNotFoundError as error:
        raise Refusal(
            f"there is no file of attributes at {url}; python -m jobs.pack writes attributes.json where a dataset has any"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(
            f'{url} is no file of attributes; it must hold {{"attributes": [names], "values": [[one of each] a class]}}'
        ) from error
    return names, values


def phrase(name: str) -> str:
    """An attribute as a text: `has_wing_color::blue` is `blue wing color`."""
    what, _, value = name.removeprefix("has_").partition("::")
    return " ".join(re.sub(r"[^\w-]+|_", " ", f"{value} {what}").split())


def correlation(one: np.ndarray | None, other: np.ndarray | None) -> float | None:
    """Pearson's, over the cells of two maps; None where one is constant or absent."""
    if one is None or other is None or not np.ptp(one) or not np.ptp(other):
        return None
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
