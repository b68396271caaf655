"""The tables of a run: the only place where a column is born."""

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
        ("map", pa.list_(pa.uint8())),
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

ERRORS = pa.schema([(column, pa.string()) for column in ("image_id", "shard", "stage", "error", "message")])


def features(width: int) -> pa.Schema:
    """Pooled features of `width` numbers."""
    return pa.schema([*_MODEL, ("feature", pa.list_(pa.float16(), width))])


def predictions(classes: int, logits: bool = True) -> pa.Schema:
    """What the network says; `logits` False leaves the widest column out."""
    fields = [
        *_MODEL,
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("label_logit", pa.float32()),
        ("label_prob", pa.float32()),
        ("predicted_prob", pa.float32()),
        ("top5", pa.list_(pa.struct([("class_id", pa.int32()), ("prob", pa.float32())]))),
    ]
    return pa.schema(fields + ([("logits", pa.list_(pa.float16(), classes))] if logits else []))


def errors(rows: list[dict]) -> pa.Table:
    """Rows of the errors table."""
    return pa.Table.from_pylist(rows, ERRORS)


PARTITIONED = {"maps": "method"}
TABLES = ("images", "features", "predictions", "maps", "errors")


def writing_options(schema: pa.Schema) -> dict:
    """Parquet settings: names go through a dictionary, numbers do not (a dictionary of maps is larger than the maps)."""
    words = [
        field.name for field in schema if field.name in {"model", "method", "target", "render", "shard", "label_name", "stage", "error"}
    ]
    return {"compression": "zstd", "compression_level": 9, "use_dictionary": words}
