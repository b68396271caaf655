"""Everything known of a batch -> the rows of each table, one function a table.

B images, C classes, h w cells
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from pipeline.backbones import Backbone
from pipeline.classes.attributes import Differing, correlation
from pipeline.engine.batch import Batch
from pipeline.maps.quantise import quantise, summaries
from pipeline.maps.render import part_of, sound
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.refusal import Refusal, one_line
from pipeline.score.partials import add_score, group_of
from pipeline.score.score_batch import ImageScore, Map
from pipeline.score.scoring import Score
from pipeline.sources import Problem
from pipeline.sources.images import ImageRow
from pipeline.spec.columns import columns_of
from pipeline.spec.explain_spec import ExplainSpec
from pipeline.spec.grammar import Choice
from pipeline.spec.output import Output
from pipeline.tables import schema
from pipeline.targets import TARGETS
from pipeline.targets.registry import Directions, Predictions


@dataclass
class OutputRows:
    """Rows and errors of one output, growing batch by batch; of a dataset-level metric its sums by target and scope."""

    columns: dict[str, list] = field(default_factory=dict)
    errors: list[dict] = field(default_factory=list)
    sums: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict)

    def add(self, **columns: list) -> None:
        """Add rows, given column by column."""
        for name, values in columns.items():
            self.columns.setdefault(name, []).extend(values)

    def add_row(self, **row) -> None:
        self.add(**{name: [value] for name, value in row.items()})

    def fail(self, row: ImageRow, stage: str, error: Exception | str, message: str) -> None:
        kind = error if isinstance(error, str) else type(error).__name__
        self.errors.append(Problem(row.image_id, row.shard, stage, kind, message).to_row())


def schemas_of(backbone: Backbone, spec: ExplainSpec) -> dict[str, pa.Schema]:
    """The schema of every table that an output may be of."""
    return {
        "images": schema.IMAGES,
        "features": schema.features(backbone.feature_width),
        "predictions": schema.predictions(backbone.num_classes, "logits" not in spec.no_store),
        "maps": schema.MAPS,
        "attributes": schema.ATTRIBUTES,
        "scores": schema.SCORES,
        "partials": schema.PARTIALS,
    }


def add_images(into: OutputRows, rows: Sequence[ImageRow], errors: Sequence[dict]) -> None:
    """Rows of `images`, and the errors of the images that could not be read."""
    into.errors += errors
    for row in rows:
        into.add_row(**{name: getattr(row, name) for name in schema.IMAGES.names})


def prediction_columns(batch: Batch, predictions: Predictions) -> dict[str, list]:
    """Columns of `predictions` [B] but its wide one; null, or empty, where there are no classes."""
    classes, labels = predictions.logits.shape[1], [label if label >= 0 else None for label in predictions.labels.tolist()]
    if not classes:
        nulls = {name: [None] * len(labels) for name in ("predicted", "label_logit", "label_prob", "predicted_prob")}
        return {"label": labels, **nulls, "top5": [[]] * len(labels)}
    probs = batch.probabilities(batch.forward.logits)[:, :classes]
    top = probs.topk(min(5, classes))
    own = predictions.labels.clamp(min=0)[:, None]

    def at_label(values: torch.Tensor) -> list:
        return [None if label is None else value for value, label in zip(values.gather(1, own)[:, 0].tolist(), labels, strict=True)]

    return {
        "label": labels,
        "predicted": predictions.predicted.tolist(),
        "label_logit": at_label(predictions.logits),
        "label_prob": at_label(probs),
        "predicted_prob": probs.amax(1).tolist(),
        "top5": [
            [{"class_id": c, "prob": p} for c, p in zip(ids, ps, strict=True)]
            for ids, ps in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ],
    }


def wide_columns(batch: Batch, table: str, spec: ExplainSpec) -> dict[str, np.ndarray]:
    """The column [B n] of `features` or `predictions` that is stored in half precision, float32 as it came; none where it is left out."""
    if table == "features":
        return {"feature": batch.forward.feature.cpu().numpy()}
    logits = batch.forward.logits[:, : batch.backbone.num_classes]
    return {} if "logits" in spec.no_store else {"logits": logits.cpu().numpy()}


def add_outputs_of_network(
    into: OutputRows, rows: Sequence[ImageRow], finite: np.ndarray, columns: Mapping[str, list], wide: Mapping[str, np.ndarray], model: str
) -> None:
    """Rows of `features` or `predictions`, for the images whose logits are finite [B] and whose `wide` columns half precision holds."""
    with np.errstate(over="ignore"):
        halves = {name: values.astype(np.float16) for name, values in wide.items()}
    for i, row in enumerate(rows):
        lost = next((name for name, values in halves.items() if not np.isfinite(values[i]).all()), None)
        if not finite[i]:
            into.fail(row, "predict", "NotFinite", "the network's output holds NaN or infinity")
        elif lost:
            into.fail(row, "predict", *_why_lost(lost, wide[lost][i]))
        else:
            own = {name: values[i] for name, values in columns.items()} | {name: values[i] for name, values in halves.items()}
            into.add_row(image_id=row.image_id, model=model, **own)


def _why_lost(name: str, values: np.ndarray) -> tuple[str, str]:
    """The error and its message of numbers that half precision does not hold."""
    column, most = {"feature": "features"}.get(name, name), np.finfo(np.float16).max
    if not np.isfinite(values).all():
        return "NotFinite", f"the {column} hold NaN or infinity"
    return "TooLarge", f"the {column} reach {np.abs(values).max():g}, and half precision holds {most:g}; --no-store {column} does without"


def add_maps(
    into: OutputRows,
    output: Output,
    name: str,
    rows: Sequence[ImageRow],
    chosen: np.ndarray,
    maps: Sequence[Map],
    directions: Directions,
    backbone: Backbone,
) -> None:
    """Rows of `maps` for the maps of chosen images [B] under one name of a target, and the reasons for those that are not there."""
    assert output.method and output.target
    present, stack = [], []
    class_id, missing = directions.class_id.tolist(), directions.missing.tolist()
    for i, (row, image_map) in enumerate(zip(rows, maps, strict=True)):
        if not chosen[i]:
            continue
        if missing[i] and TARGETS[output.target.name].compared and row.label is not None:
            continue  # its class asks for no map, or for fewer than others
        if missing[i]:
            into.fail(row, "target", "MissingLabel", f"no usable label, so target {output.target.alias!r} has nothing to explain")
        elif isinstance(image_map, Exception):
            into.fail(row, "map", image_map, f"{output.method.alias} for {name}: {one_line(image_map)}")
        elif not sound(image_map):
            into.fail(row, "map", "NotFinite", f"{output.method.alias} for {name}: the map, or its range, holds NaN or infinity")
        else:
            present.append(i)
            stack.append(image_map)
    if present:
        into.add(
            image_id=[rows[i].image_id for i in present],
            target=[name] * len(present),
            class_id=[class_id[i] if class_id[i] >= 0 else None for i in present],
            reference_ids=[directions.reference_ids[i].tolist() for i in present],
            gamma=[directions.gamma] * len(present),
            **_map_columns(np.stack(stack), part_of(_render(output.method, backbone))),
        )


def _render(method: Choice, backbone: Backbone) -> str:
    """The way from a method's stored map to an image."""
    return backbone.drawing(METHODS[method.name].render(method.args))


def _map_columns(maps: np.ndarray, part: tuple[float, float, float, float] | None) -> dict[str, list]:
    """The columns of `maps` that the maps [N h w] themselves decide, which lie over a part of the image or, where None, all of it."""
    codes, low, high = quantise(maps)
    return {
        "map": list(codes.reshape(len(maps), -1)),
        "map_min": low.tolist(),
        "map_max": high.tolist(),
        "height": [maps.shape[1]] * len(maps),
        "width": [maps.shape[2]] * len(maps),
        **{name: [None if np.isnan(value) else value for value in values.tolist()] for name, values in summaries(maps, part).items()},
    }


def add_attributes(
    into: OutputRows, output: Output, rows: Sequence[ImageRow], chosen: np.ndarray, maps: Mapping[str, Sequence[Map]]
) -> None:
    """Rows of `attributes`: how like the map of each attribute is to those of the image's class, plain and against its rival."""
    assert output.target and isinstance(output.target.argument, Differing)
    name = output.target.alias
    for i, row in enumerate(rows):
        if not chosen[i] or row.label is None:
            continue
        apart = output.target.argument.classes[row.label]
        for k, (text, difference) in enumerate(apart.attributes, 1):
            target = f"{name}#attribute_{k}"
            likeness = {f"like_{form}": correlation(maps[target][i], maps[f"{name}#{form}"][i]) for form in ("finer", "label")}
            texts = {"attribute": text, "difference": difference}
            into.add_row(image_id=row.image_id, target=target, class_id=row.label, rival=apart.rival, **texts, **likeness)


def add_scores(into: OutputRows, output: Output, rows: Sequence[ImageRow], scores: Sequence[ImageScore], class_id: Sequence[int]) -> None:
    """Rows of `scores`, a metric's column each; `class_id` [B] are the classes that the maps explain, -1 where they explain none."""
    assert output.metric
    for scored in scores:
        i, score = scored.position, scored.score
        row = rows[i]
        _add_score_error(into, output, row, scored)
        for column in columns_of(output.metric):
            into.add_row(
                image_id=row.image_id,
                class_id=class_id[i] if class_id[i] >= 0 else None,
                label=row.label,
                metric=column,
                value=score.values.get(column),
                reason=score.reason,
            )


def add_partials(into: OutputRows, output: Output, rows: Sequence[ImageRow], scores: Sequence[ImageScore]) -> None:
    """Add scores to the sums that become rows of `partials`."""
    assert output.metric
    metric = METRICS[output.metric.name]
    for scored in scores:
        row = rows[scored.position]
        group = None if metric.of_pairs else group_of(row.image_id)
        try:
            add_score(into.sums.setdefault((scored.target, scored.scope), {}), scored.score, group)
            if output.metric.args.get("by_class") and row.label is not None:
                add_score(into.sums.setdefault((scored.target, str(row.label)), {}), scored.score)
        except Refusal as refusal:
            scored = scored._replace(score=Score(error=refusal))
        _add_score_error(into, output, row, scored)


def _add_score_error(into: OutputRows, output: Output, row: ImageRow, scored: ImageScore) -> None:
    assert output.metric and output.method
    error = scored.score.error
    if error:
        scope = f" and the classes {scored.scope}" if METRICS[output.metric.name].of_pairs else ""
        name = f"{output.metric.alias} of {output.method.alias} for {scored.target}{scope}"
        into.fail(row, "metric", error, f"{name}: {one_line(error)}")


def table_of(rows: OutputRows, output: Output, form: pa.Schema, backbone: Backbone) -> pa.Table:
    """The rows of an output as a table of the schema `form`."""
    columns = dict(rows.columns)
    if output.table == "partials":
        columns = _partial_columns(output, rows.sums)
    count = len(next(iter(columns.values()), ()))
    if output.method and output.target:
        names = {"model": backbone.name, "method": output.method.alias, "target": output.target.alias}
        names["render"] = _render(output.method, backbone)
        columns = {**{name: [value] * count for name, value in names.items()}, **columns}
    return pa.table([pa.array(columns.get(name, []), form.field(name).type) for name in form.names], schema=form)


def _partial_columns(output: Output, sums: Mapping[tuple[str, str], Mapping[str, np.ndarray]]) -> dict[str, list]:
    assert output.metric
    rows = [
        {"metric": output.metric.alias, "target": target, "scope": scope, "kind": kind, "values": values}
        for (target, scope) in sorted(sums)
        for kind, values in sorted(sums[target, scope].items())
    ]
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
