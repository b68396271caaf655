"""The columns of a run's tables. No other module defines one.

Their types are plain, so that every engine reads every table: nothing unsigned and no float16, which Spark, Delta Lake and Athena
refuse; and no list of a fixed size, which Delta Lake has not, so that Polars would find other types in its tables than in their files.
Features and logits are rounded to half precision all the same: so they compress to half the bytes.
"""

from collections.abc import Iterable

import pyarrow as pa

_ID = [pa.field("image_id", pa.string(), nullable=False)]
_MODEL = [*_ID, pa.field("model", pa.string(), nullable=False)]
_BOX = pa.struct([(corner, pa.float32()) for corner in ("x0", "y0", "x1", "y1")])

IMAGES = pa.schema(
    [
        *_ID,
        ("shard", pa.string()),
        ("key", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("boxes", pa.list_(_BOX)),
        ("split", pa.string()),
        ("has_mask", pa.bool_()),
    ]
)

MAPS = pa.schema(
    [
        *_MODEL,
        ("method", pa.string()),
        ("target", pa.string()),
        ("class_id", pa.int32()),
        ("reference_ids", pa.list_(pa.int32())),
        ("gamma", pa.float32()),
        ("height", pa.int16()),
        ("width", pa.int16()),
        ("map", pa.list_(pa.int16())),
        ("map_min", pa.float32()),
        ("map_max", pa.float32()),
        ("render", pa.string()),
        ("mean", pa.float32()),
        ("entropy", pa.float32()),
        ("gini", pa.float32()),
        ("peak_x", pa.float32()),
        ("peak_y", pa.float32()),
    ]
)

ATTRIBUTES = pa.schema(
    [
        *_MODEL,
        ("method", pa.string()),
        ("target", pa.string()),
        ("class_id", pa.int32()),
        ("rival", pa.int32()),
        ("attribute", pa.string()),
        ("difference", pa.float64()),
        ("like_finer", pa.float32()),
        ("like_label", pa.float32()),
    ]
)

# One value of one metric, as a task lands it; the published table `metrics` has a column for each metric.
SCORES = pa.schema(
    [
        *_MODEL,
        ("method", pa.string()),
        ("target", pa.string()),
        ("class_id", pa.int32()),
        ("label", pa.int32()),
        ("metric", pa.string()),
        ("value", pa.float32()),
        ("reason", pa.string()),
    ]
)

PARTIALS = pa.schema(
    [
        ("metric", pa.string()),
        ("model", pa.string()),
        ("method", pa.string()),
        ("target", pa.string()),
        ("scope", pa.string()),
        ("kind", pa.string()),
        ("values", pa.list_(pa.float64())),
    ]
)

_ENDS = ("", "_low", "_high")
_CONTROLS = [(f"{control}{end}", pa.float64()) for control in ("random", "fake_cam") for end in _ENDS]
_DIFFERENCES = [f"diff_{to}{end}" for to in ("random", "label") for end in _ENDS]
SUMMARY = pa.schema(
    [
        *[(name, pa.string()) for name in ("model", "method", "target", "metric", "scope")],
        ("n", pa.int64()),
        ("n_null", pa.int64()),
        *[(name, pa.float64()) for name in ("mean", "std", "ci_low", "ci_high")],
        ("better", pa.string()),
        ("stored", pa.bool_()),
        *_CONTROLS,
        *[(name, pa.float64()) for name in _DIFFERENCES],
        ("reasons", pa.map_(pa.string(), pa.string())),
    ]
)

CURVES = pa.schema(
    [
        *[(name, pa.string()) for name in ("model", "method", "target", "metric")],
        ("step", pa.int32()),
        ("mean", pa.float64()),
        ("n", pa.int64()),
        *[(name, pa.float64()) for name in ("ci_low", "ci_high")],
        *_CONTROLS,
    ]
)

# What `atlas compare` finds between two runs; neither table is part of a run.
DRIFT = pa.schema(
    [
        *[(name, pa.string()) for name in ("kind", "method", "target", "scope", "quantity")],
        ("n", pa.int64()),
        *[(name, pa.float64()) for name in ("before", "now", "value", "ci_low", "ci_high", "floor")],
        ("detail", pa.string()),
    ]
)

MOVED = pa.schema(
    [
        *_ID,
        *[(name, pa.string()) for name in ("method", "target")],
        *[(name, pa.float64()) for name in ("spearman", "ssim", "relative_distance")],
    ]
)
_ESTIMATE = [*[(name, pa.float64()) for name in ("mean", "ci_low", "ci_high")], ("n", pa.int64())]
_OF_SCOPE = [("number", pa.string()), ("scope", pa.string()), ("n_null", pa.int64()), ("std", pa.float64()), *_ESTIMATE]
_DRAWN = [MAPS.field(name) for name in ("height", "width", "map", "map_min", "map_max", "render")]

# Tables that are computed from the others, by the name of the analysis.
_CLUSTER = [
    *[(name, pa.string()) for name in ("model", "method", "target")],
    ("class_id", pa.int32()),
    ("cluster", pa.int32()),
]
_MEMBER = [("image_id", pa.string()), *[(name, pa.float32()) for name in ("distance", "outlier", "x", "y")]]
ANALYSES = {
    "clusters": pa.schema(
        [
            *_CLUSTER,
            *[(name, pa.int32()) for name in ("n", "class_images", "left_out")],
            *[(name, pa.float64()) for name in ("share", "separation", "distance", "suspicion")],
            ("exemplars", pa.list_(pa.string())),
            ("eigenvalues", pa.list_(pa.float64())),
            ("eigengap", pa.float64()),
            *[MAPS.field(name) for name in ("height", "width", "map", "map_min", "map_max", "render")],
            ("members", pa.list_(pa.struct(_MEMBER))),
        ]
    ),
    "cluster_members": pa.schema([*_CLUSTER, *_MEMBER]),
    "disagreement": pa.schema(
        [
            *_MODEL,
            ("target", pa.string()),
            ("disagreement", pa.float64()),
            ("methods", pa.int32()),
            ("pairs", pa.list_(pa.struct([("a", pa.string()), ("b", pa.string()), ("spearman", pa.float32())]))),
        ]
    ),
    "agreement": pa.schema(
        [
            *[(name, pa.string()) for name in ("kind", "model", "target", "a", "b")],
            ("with_controls", pa.bool_()),
            *_ESTIMATE,
            ("methods", pa.int32()),
        ]
    ),
    "class_sensitivity": pa.schema(
        [
            *_MODEL,
            ("label", pa.int32()),
            *[(name, pa.string()) for name in ("method", "a", "b")],
            *[(name, pa.float64()) for name in ("spearman", "ssim")],
        ]
    ),
    "class_sensitivity_summary": pa.schema([(name, pa.string()) for name in ("model", "method", "a", "b")] + _OF_SCOPE),
    "background": pa.schema(
        [
            *_MODEL,
            ("label", pa.int32()),
            *[(name, pa.string()) for name in ("method", "target")],
            *[(name, pa.float64()) for name in ("outside", "area")],
        ]
    ),
    "background_summary": pa.schema([(name, pa.string()) for name in ("model", "method", "target")] + _OF_SCOPE),
    "mean_maps": pa.schema(
        [
            *[(name, pa.string()) for name in ("model", "method", "target")],
            ("class_id", pa.int32()),
            ("subset", pa.string()),
            ("n", pa.int64()),
            *_DRAWN,
        ]
    ),
    "aggatt": pa.schema(
        [
            *[(name, pa.string()) for name in ("model", "method", "target", "metric")],
            ("bin", pa.int32()),
            ("low", pa.float64()),
            ("high", pa.float64()),
            *_ESTIMATE,
            ("examples", pa.list_(pa.string())),
            ("colour_max", pa.float64()),
            *_DRAWN,
        ]
    ),
    "map_boxes": pa.schema(
        [
            *_MODEL,
            *[(name, pa.string()) for name in ("method", "target")],
            ("threshold", pa.float64()),
            ("box", _BOX),
            *[(name, pa.float64()) for name in ("area", "iou")],
        ]
    ),
}

# One row a night, however it ended; it belongs to no run.
NIGHTS = pa.schema(
    [
        *[(name, pa.string()) for name in ("name", "started", "run_id", "before")],
        ("new", pa.bool_()),
        *[(name, pa.int64()) for name in ("images", "explained", "failed", "errors")],
        ("seconds", pa.map_(pa.string(), pa.float64())),
        ("planned_hours", pa.float64()),
        ("verdict", pa.string()),
        ("bad", pa.list_(pa.string())),
        ("report", pa.string()),
        ("ending", pa.string()),
    ]
)

ERRORS = pa.schema([(column, pa.string()) for column in ("image_id", "shard", "stage", "error", "message")])


def features(width: int) -> pa.Schema:
    """The features table: pooled features of `width` numbers."""
    return pa.schema([*_MODEL, ("feature", pa.list_(pa.float32(), width))])


def predictions(classes: int, logits: bool = True) -> pa.Schema:
    """The predictions table. `logits` False leaves out the widest column, whose lists are empty where there are no classes."""
    fields = [
        *_MODEL,
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("label_logit", pa.float32()),
        ("label_prob", pa.float32()),
        ("predicted_prob", pa.float32()),
        ("top5", pa.list_(pa.struct([("class_id", pa.int32()), ("prob", pa.float32())]))),
    ]
    return pa.schema(fields + ([("logits", pa.list_(pa.float32(), classes or -1))] if logits else []))


def metrics(columns: Iterable[str]) -> pa.Schema:
    """The metrics table: a nullable column for each, and the reasons of nulls (column -> reason)."""
    fields = [(column, pa.float32()) for column in sorted(columns)]
    return pa.schema([*[SCORES.field(name) for name in SCORES.names[:6]], *fields, ("reasons", pa.map_(pa.string(), pa.string()))])


def errors(rows: list[dict]) -> pa.Table:
    """Rows of the errors table."""
    return pa.Table.from_pylist(rows, ERRORS)


VERSIONS = {
    "features": 3,
    "predictions": 3,
    "maps": 2,
    "summary": 2,
    "curves": 2,
}  # of the types of tables that have changed: published files of an older one are not copied
_PLAIN = {pa.uint8(): pa.int16(), pa.float16(): pa.float32()}


def plain(table: pa.Table) -> pa.Table:
    """A table with plain types as a run has them, which those of tasks are not: lists of a fixed size, and others of earlier versions."""
    fields = [field.with_type(_plain(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, table.schema.metadata))


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_plain(kind.value_type)) if _is_list(kind) else _PLAIN.get(kind, kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)


def engines_refuse(kind: pa.DataType) -> bool:
    """Whether a type of earlier versions is one that Spark, Delta Lake and Athena have not."""
    return engines_refuse(kind.value_type) if _is_list(kind) else kind in _PLAIN


PARTITIONED = {"maps": "method", "attributes": "method", "metrics": "method"}
TABLES = ("images", "features", "predictions", "maps", "attributes", "metrics", "partials", "summary", "curves", *ANALYSES, "errors")
BESIDE_RUNS = ("drift", "moved", "nights")  # of comparisons of two runs and of nights, and part of no run
_DICTIONARY_COLUMNS = {
    "model",
    "method",
    "target",
    "render",
    "shard",
    "label_name",
    "attribute",
    "stage",
    "error",
    "metric",
    "scope",
    "kind",
    "better",
    "reason",
    "split",
}


def writing_options(schema: pa.Schema) -> dict:
    """Parquet settings. Names and counts are dictionary-encoded; other numbers are not: a dictionary of maps is larger than the maps.

    Features and logits are split by bytes: half of the bytes of numbers that were rounded to half precision are alike.
    """
    columns = [field.name for field in schema if field.name in _DICTIONARY_COLUMNS] + ["values.list.element"] * ("values" in schema.names)
    split = [f"{name}.list.element" for name in ("feature", "logits") if name in schema.names]
    return {"compression": "zstd", "compression_level": 9, "use_dictionary": columns, "use_byte_stream_split": split}
