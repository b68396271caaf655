"""Parquet files with encoded images in a column, one row a sample. A key is the key column's value, else the row's number.

The images are in the column of a usual name, else in the only one that holds bytes.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.refusal import one_line
from pipeline.sources.sample import IMAGES, Problems, described, parse_json, unsafe
from pipeline.sources.shard import MEMBER_LIMIT, Found, Index, Kind, Sample, Shard, ShardError, open_listed

IMAGE_COLUMNS = ("image", *IMAGES, "img", "image_bytes", "picture")
KEY_COLUMNS = ("key", "image_id", "id", "__key__")
LABEL_COLUMNS = ("label", "cls")
OTHER_COLUMNS = ("label_name", "boxes", "split", "parts", "part_names", "json")
MASK_COLUMNS = ("mask.png", "parts.png")
ROWS_AT_ONCE = 32


def shards(files: Sequence[Found]) -> list[Shard]:
    return [Shard("parquet", file.name, (file.url,), file.size, file.etag) for file in files]


class Table:
    """An open Parquet file and which of its columns mean what."""

    def __init__(self, handle):
        try:
            self.file = pq.ParquetFile(handle)
        except pa.ArrowInvalid as error:
            raise ShardError("UnreadableShard", f"this is no Parquet file, or it is cut: {one_line(error)}") from error
        names = set(self.file.schema_arrow.names)
        self.image = _image_column(self.file.schema_arrow)
        self.key, self.label = (_first(candidates, names) for candidates in (KEY_COLUMNS, LABEL_COLUMNS))
        self.others = [name for name in OTHER_COLUMNS if name in names]
        self.masks = [name for name in MASK_COLUMNS if name in names]

    @property
    def rows(self) -> int:
        return self.file.metadata.num_rows

    def read(self, columns: Sequence[str | None], start: int, stop: int) -> Iterator[tuple[int, dict]]:
        """Yield (row number, row) for start <= row < stop from the row groups that hold them."""
        column_names = [name for name in columns if name]
        groups, first, before = [], None, 0
        for number in range(self.file.num_row_groups):
            size = self.file.metadata.row_group(number).num_rows
            if before < stop and before + size > start:
                groups.append(number)
                first = before if first is None else first
            before += size
        position = first or 0
        for batch in self.file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=column_names) if groups else ():
            skip = max(start - position, 0)
            for offset, row in enumerate(batch.slice(skip, max(stop - position - skip, 0)).to_pylist()):
                yield position + skip + offset, row
            position += batch.num_rows


def _image_column(schema: pa.Schema) -> str:
    """The column of images.

    Raises:
        ShardError: no column holds bytes, or several do and none has a usual name.
    """
    taken = {*KEY_COLUMNS, *LABEL_COLUMNS, *OTHER_COLUMNS, *MASK_COLUMNS}
    with_bytes = [field.name for field in schema if _holds_bytes(field.type, field.name in IMAGE_COLUMNS) and field.name not in taken]
    usual = _first(IMAGE_COLUMNS, {*with_bytes})
    if usual:
        return usual
    if len(with_bytes) == 1:
        return with_bytes[0]
    named = _first(IMAGE_COLUMNS, {*schema.names})
    if named and not with_bytes:
        kind = schema.field(named).type
        raise ShardError("UnreadableShard", f"column {named!r} holds {kind}, not encoded images (bytes, or a struct with bytes)")
    columns = ", ".join(sorted(with_bytes or schema.names)[:10])
    found = f"the columns {columns} hold bytes; name one of them image" if with_bytes else f"none holds bytes; the columns are {columns}"
    raise ShardError("UnreadableShard", f"no column of images ({' '.join(IMAGE_COLUMNS)}), and {found}")


def _holds_bytes(kind: pa.DataType, numbers: bool = False) -> bool:
    """Whether a column holds bytes, a struct with bytes, a dictionary of bytes or, where `numbers` may be bytes, lists of numbers of 8 bits."""
    types = pa.types
    if types.is_dictionary(kind):
        return _holds_bytes(kind.value_type, numbers)
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return _holds_bytes(kind.field("bytes").type, True)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return numbers and (types.is_uint8(kind.value_type) or types.is_int8(kind.value_type))
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind)


def _first(candidates: Sequence[str], names: set[str]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _key(table: Table, position: int, row: dict) -> str:
    value = f"{position:08d}" if table.key is None else row[table.key]
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else "" if value is None else str(value)


def _sample(table: Table, position: int, row: dict, repeated: bool) -> Sample:
    key = _key(table, position, row)
    reason, printable = unsafe(key)
    if reason:
        return Sample(printable or f"{position:08d}", problems=(("UnsafeKey", reason),))
    if repeated:
        return Sample(key, problems=(("DuplicateKey", "an earlier row of this file has the key; this one is left out"),))
    problems: Problems = []
    text = row.get("json")
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    annotations = parse_json(raw, problems) if isinstance(raw, bytes) else dict(raw) if isinstance(raw, dict) else {}
    columns = {"label": _plain(row.get(table.label))} | {name: row.get(name) for name in OTHER_COLUMNS[:-1]}
    annotations |= {name: value for name, value in columns.items() if value is not None}
    members = {name: row[name] for name in table.masks if isinstance(row.get(name), bytes)}
    return described(key, _image(row.get(table.image), problems), annotations, members, problems)


def _plain(label: object) -> object:
    """A label column with gaps is often stored as floats, text sometimes as bytes."""
    if isinstance(label, float):
        return None if math.isnan(label) else int(label) if label.is_integer() else label
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else label


def _image(value: bytes | list | dict | None, problems: Problems) -> bytes | None:
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, list):
        content = None if None in content else bytes(number & 255 for number in content)
    if content is None:
        where = f"; it points at {value['path']!a}, which is not followed" if isinstance(value, dict) and value.get("path") else ""
        problems.append(("MissingImage", f"the row has no encoded image{where}"))
    elif len(content) > MEMBER_LIMIT:
        problems.append(("MemberTooLarge", f"the image has {len(content):,} bytes; at most {MEMBER_LIMIT:,} are taken"))
        return None
    return content


def index(shard: Shard) -> Index:
    if shard.size == 0 and shard.etag is not None:
        return _empty(shard, None)
    with open_listed(shard) as handle:
        digest = None if shard.etag else hashlib.file_digest(handle, "sha256").hexdigest()
        if shard.size == 0:
            return _empty(shard, digest)
        handle.seek(0)
        table = Table(handle)
        labelled, keys, duplicates = 0, set(), []
        splits: set[str] = set()
        labels: Counter[int | str] = Counter()
        restated = False
        for position, row in table.read((table.key, table.label, *table.others), 0, table.rows):
            key = _key(table, position, row)
            if key in keys:
                duplicates.append(position)
            sample = _sample(table, position, row, key in keys)
            labelled += sample.label is not None
            labels.update([] if sample.label is None else [sample.label])
            splits.update(filter(None, [sample.split]))
            restated |= sample.restated
            keys.add(key)
    problems = () if table.rows else (shard.problem("EmptyShard", "the file holds no rows"),)
    identity, marks = shard.identity(digest, restated), ()
    return Index(identity, table.rows, labelled, problems, marks, tuple(duplicates), tuple(sorted(splits)), tuple(labels.items()))


def _empty(shard: Shard, digest: str | None) -> Index:
    return Index(shard.identity(digest), 0, 0, (shard.problem("EmptyShard", "the file has no bytes"),))


def read(shard: Shard, start: int, stop: int | None, index: Index | None) -> Iterator[Sample]:
    with open_listed(shard) as handle:
        table = Table(handle)
        stop = table.rows if stop is None else min(stop, table.rows)
        keys: set[str] = set()
        if table.key and not index:
            keys.update(_key(table, position, row) for position, row in table.read((table.key,), 0, start))
        repeated = set(index.duplicates) if index else None
        columns = (table.image, table.key, table.label, *table.others, *table.masks)
        for position, row in table.read(columns, start, stop):
            key = _key(table, position, row)
            yield _sample(table, position, row, key in keys if repeated is None else position in repeated)
            if repeated is None:
                keys.add(key)


KIND = Kind((".parquet",), shards, index, read)
