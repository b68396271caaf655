"""Images held in memory, explained in this process: the code a cluster's workers run, without the cluster."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipeline import backbones
from pipeline.backbones.network import Network
from pipeline.plan.fit import fit_to_backbone, with_class_sets
from pipeline.plan.outputs import outputs_of
from pipeline.reduce.curves import curves_of
from pipeline.reduce.summary import summarise
from pipeline.refusal import Refusal
from pipeline.sources.images import DecodedImages
from pipeline.spec.explain_spec import ExplainSpec, build_spec
from pipeline.spec.output import Output
from pipeline.stages.explainer import Explainer
from pipeline.tables import schema
from pipeline.tables.errors import deduplicate
from pipeline.tables.wide import drop_groups, widen


def explain(
    images: np.ndarray,
    labels: Sequence[int | None] | None,
    backbone: str | backbones.Backbone | Network,
    methods: Sequence[str],
    targets: Sequence[str] = ("label",),
    *,
    keys: Sequence[str] | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    method_args: Sequence[str] = (),
    target_args: Sequence[str] = (),
    metrics: Sequence[str] = (),
    metric_args: Sequence[str] = (),
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    masks: Sequence[np.ndarray | None] | None = None,
    class_sets: Mapping[str, Sequence[int]] | None = None,
    **spec,
) -> dict[str, pa.Table]:
    """Explain images held in memory, in this process: the code a cluster's workers run, without the cluster.

    Args:
        images: uint8 [N 3 H W] at the network's input size, RGB.
        labels: class indices, None where there is none.
        backbone: a name such as `timm/resnet50`, a `Network`, or a loaded backbone.
        methods, targets, metrics, method_args, target_args, metric_args: as on the command line.
        boxes: each image's boxes x0 y0 x1 y1, as fractions of the image.
        masks: each image's object [H W] at the network's input size: bool, or uint8 where 128 is what counts neither way.
        class_sets: class numbers by name, for targets class_set:NAME.
        keys: names of the images, which seed their noise; their positions by default.
        questions: activation, precision, map_size, seed, select, no_store, and plugins as on the command line.

    Returns:
        The tables of a run by name: images, features, predictions, maps, errors, and with metrics: metrics, partials, summary, curves.

    Raises:
        Refusal: for anything that cannot be carried out.
    """
    if isinstance(backbone, str):
        backbone = Network(backbone)
    asked = build_spec(methods, targets, method_args, target_args, metrics, metric_args, **spec)
    if isinstance(backbone, Network):
        backbone = replace(backbone, phrases=asked.phrases).load()
    images = np.ascontiguousarray(images)
    if images.dtype != np.uint8 or images.shape[1:] != (3, *backbone.image_size):
        raise Refusal(
            f"images are {images.dtype} {images.shape}; {backbone.name} takes uint8 [N 3 {' '.join(map(str, backbone.image_size))}]"
        )
    wrong = [label for label in labels or () if label is not None and label >= backbone.num_classes > 0]
    if wrong:
        raise Refusal(f"label {wrong[0]} is outside 0 ... {backbone.num_classes - 1}, the classes of {backbone.name}")
    asked, _ = fit_to_backbone(with_class_sets(asked, class_sets or {}), backbone)
    rows, digests = [], []
    for i, image in enumerate(images):
        key = str(keys[i]) if keys is not None else f"{i:08d}"
        label = None if labels is None or labels[i] is None or labels[i] < 0 else int(labels[i])
        row = {"image_id": key, "key": key, "shard": "", "width": image.shape[2], "height": image.shape[1], "label": label}
        corners = [dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) for box in boxes[i]] if boxes else []
        mask = masks[i] if masks else None
        rows.append({**row, "boxes": corners, "mask": mask, "has_mask": mask is not None})
        digests.append(hashlib.sha256(image.tobytes()).hexdigest())
    answers = Explainer(backbone, asked, device, batch_size)(DecodedImages(images, rows, digests), outputs_of(asked, backbone, ()))
    return gathered(answers, asked)


def gathered(answers: Sequence[tuple[Output, pa.Table, pa.Table]], asked: ExplainSpec) -> dict[str, pa.Table]:
    """Cells put together into the tables of a run; an error that several cells met is told once."""
    tables = {"errors": pa.Table.from_pylist([], schema.ERRORS), "maps": pa.Table.from_pylist([], schema.MAPS)}
    for cell, rows, errors in answers:
        tables[cell.table] = pa.concat_tables([tables[cell.table], rows]) if cell.table in tables else rows
        tables["errors"] = pa.concat_tables([tables["errors"], errors])
    tables["errors"] = deduplicate(tables["errors"])
    if asked.metrics:
        tables["metrics"] = widen(tables.pop("scores", schema.SCORES.empty_table()), asked.columns)
        partials = tables.get("partials", schema.PARTIALS.empty_table())
        tables["summary"] = summarise(tables["metrics"], partials, asked)
        tables |= {"partials": drop_groups(partials), "curves": curves_of(partials)}
    return tables
