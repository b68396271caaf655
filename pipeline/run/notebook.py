"""Images held in memory, explained in this process: the code a cluster's workers run, without the cluster."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipeline import backbones
from pipeline.backbones.network import Network
from pipeline.plan.fit import fit_to_backbone, refuse_one_logit, with_class_sets
from pipeline.plan.outputs import outputs_of
from pipeline.reduce.curves import curves_of
from pipeline.reduce.summary import summarise
from pipeline.refusal import Refusal
from pipeline.sources.images import DecodedImages, ImageRow, part_names_misfit
from pipeline.sources.shard import Box, Point
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
    boxes: Sequence[Sequence[Box]] | None = None,
    masks: Sequence[np.ndarray | None] | None = None,
    parts: Sequence[Mapping[str, Point] | np.ndarray | None] | None = None,
    part_names: Sequence[str] = (),
    class_sets: Mapping[str, Sequence[int]] | None = None,
    **settings,
) -> dict[str, pa.Table]:
    """Explain images held in memory, in this process: the code a cluster's workers run, without the cluster.

    Args:
        images: uint8 [N 3 H W] at the network's input size, RGB.
        labels: class indices, None where there is none.
        backbone: a name such as `timm/resnet50`, a `Network`, or a loaded backbone.
        methods, targets, metrics, method_args, target_args, metric_args: as on the command line.
        boxes: each image's boxes x0 y0 x1 y1, as fractions of the image.
        masks: each image's object [H W] at the network's input size: bool, or uint8 where 128 is what counts neither way.
        parts: each image's parts: the points (x, y) of those that can be seen by name, as fractions of the image; or uint8 [H W] at the
            network's input size, code i for part_names[i - 1] and 0 for none; None where nothing is known of them.
        part_names: the names of the parts that codes stand for.
        class_sets: class numbers by name, for targets class_set:NAME.
        keys: names of the images, which seed their noise; their positions by default.
        settings: activation, precision, map_size, seed, select, no_store, and plugins as on the command line.

    Returns:
        The tables of a run by name: images, features, predictions, maps, errors, and with metrics: metrics, partials, summary, curves.

    Raises:
        Refusal: for anything that cannot be carried out.
    """
    if isinstance(backbone, str):
        backbone = Network(backbone)
    spec = build_spec(methods, targets, method_args, target_args, metrics, metric_args, **settings)
    if isinstance(backbone, Network):
        backbone = replace(backbone, phrases=spec.phrases).load()
    images = np.ascontiguousarray(images)
    refuse_one_logit(backbone, spec.activation)  # before labels are compared with the one class
    _refuse_misfit(images, labels, parts, part_names, backbone)
    sets = {name: tuple(members) for name, members in (class_sets or {}).items()}
    spec, _ = fit_to_backbone(with_class_sets(spec, sets), backbone)
    decoded = _decode(images, labels, keys, boxes, masks, parts, part_names)
    results = Explainer(backbone, spec, device, batch_size)(decoded, outputs_of(spec, backbone, ()))
    return _gather(results, spec)


def _refuse_misfit(
    images: np.ndarray,
    labels: Sequence[int | None] | None,
    parts: Sequence[Mapping[str, Point] | np.ndarray | None] | None,
    part_names: Sequence[str],
    backbone: backbones.Backbone,
) -> None:
    """Raise Refusal where images, labels or parts do not go with the backbone or with each other."""
    size = tuple(backbone.image_size)
    if images.dtype != np.uint8 or images.shape[1:] != (3, *size):
        raise Refusal(f"images are {images.dtype} {images.shape}; {backbone.name} takes uint8 [N 3 {' '.join(map(str, size))}]")
    outside = [label for label in (labels if labels is not None else ()) if label is not None and label >= backbone.num_classes > 0]
    if outside:
        raise Refusal(f"label {outside[0]} is outside 0 ... {backbone.num_classes - 1}, the classes of {backbone.name}")
    if parts is not None and len(parts) != len(images):
        raise Refusal(f"parts of {len(parts)} images for {len(images)} images; give one of each, None where nothing is known")
    for i, codes in enumerate(parts if parts is not None else ()):
        if not isinstance(codes, np.ndarray):
            continue
        if codes.dtype != np.uint8 or codes.shape != size:
            raise Refusal(
                f"the parts of image {i} are {codes.dtype} {codes.shape}; give uint8 [{' '.join(map(str, size))}], or points by name"
            )
        misfit = part_names_misfit(codes, part_names)
        if misfit:
            raise Refusal(f"the parts of image {i} do not go with part_names: {misfit}; name every code")


def _decode(
    images: np.ndarray,
    labels: Sequence[int | None] | None,
    keys: Sequence[str] | None,
    boxes: Sequence[Sequence[Box]] | None,
    masks: Sequence[np.ndarray | None] | None,
    parts: Sequence[Mapping[str, Point] | np.ndarray | None] | None,
    part_names: Sequence[str],
) -> DecodedImages:
    """Bring arrays into the form that images of a shard have once they are decoded."""
    rows, digests = [], []
    for i, image in enumerate(images):
        key = str(keys[i]) if keys is not None else f"{i:08d}"
        label = labels[i] if labels is not None else None
        part = parts[i] if parts is not None else None
        codes = part if isinstance(part, np.ndarray) else None
        rows.append(
            ImageRow.annotated(
                image_id=key,
                key=key,
                width=image.shape[2],
                height=image.shape[1],
                label=None if label is None or label < 0 else int(label),
                boxes=boxes[i] if boxes is not None else (),
                mask=masks[i] if masks is not None else None,
                points=None if isinstance(part, np.ndarray) else part,
                parts=codes,
                part_names=tuple(part_names) if codes is not None else (),
            )
        )
        digests.append(hashlib.sha256(image.tobytes()).hexdigest())
    return DecodedImages(images, rows, digests)


def _gather(results: Sequence[tuple[Output, pa.Table, pa.Table]], spec: ExplainSpec) -> dict[str, pa.Table]:
    """Put results together into the tables of a run; an error that several outputs met has one row."""
    tables = {"errors": pa.Table.from_pylist([], schema.ERRORS), "maps": pa.Table.from_pylist([], schema.MAPS)}
    for output, rows, errors in results:
        tables[output.table] = pa.concat_tables([tables[output.table], rows]) if output.table in tables else rows
        tables["errors"] = pa.concat_tables([tables["errors"], errors])
    tables["errors"] = deduplicate(tables["errors"])
    if spec.metrics:
        tables["metrics"] = widen(tables.pop("scores", schema.SCORES.empty_table()), spec.columns)
        partials = tables.get("partials", schema.PARTIALS.empty_table())
        tables["summary"] = summarise(tables["metrics"], partials, spec)
        tables |= {"partials": drop_groups(partials), "curves": curves_of(partials)}
    return tables
