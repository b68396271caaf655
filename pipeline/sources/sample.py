"""From the files that belong to one image to a `Sample`: which key is safe, which label, boxes and parts are meant."""

import json
import math
import re
from collections.abc import Iterable

from pipeline.sources.shard import Box, Point, Sample

IMAGES = ("jpg", "jpeg", "png", "webp", "jpe", "jfif")  # in order of preference where a sample has several; the last two are JPEG as well
IMAGE_ENDINGS = tuple(f".{name}" for name in IMAGES)
# Loading one of these runs, or can run, code of whoever wrote it.
UNSAFE = {"pkl", "pickle", "pt", "pth", "ckpt", "npy", "npz", "joblib", "dill", "so", "dll", "exe", "py", "pyc", "pyd", "sh"}
JSON_LIMIT = 16 << 20  # bytes
NESTING_LIMIT = 64
BOXES_LIMIT = 10_000
KEY_LIMIT = 1024  # characters
LABEL_LIMIT = 256  # characters; longer text is a caption
PARTS_LIMIT = 255  # what an 8-bit index image can name
WHOLE = r"[+-]?[0-9]{1,18}(\.0*)?"  # a whole number as text, as it is written by a program that knows it as a float too
PIXELS_NOT_FRACTIONS = 10.0  # a box may stick out of its image, but not by ten images

Problems = list[tuple[str, str]]


def unsafe(key: str) -> tuple[str | None, str]:
    """Why `key` may not become a path or a table's key (None: it may), and a form of it that can be printed."""
    printable = key.encode("utf-8", "surrogateescape" if _is_escaped(key) else "backslashreplace").decode("utf-8", "backslashreplace")
    printable = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: f"\\x{ord(match[0]):02x}", printable)
    if len(printable) > KEY_LIMIT:
        return f"the key has {len(key):,} characters; at most {KEY_LIMIT:,} are taken", printable[:KEY_LIMIT] + "..."
    if printable != key:
        return "the key holds control characters or is not UTF-8", printable
    if not key:
        return "the key is empty", printable
    if key.startswith("/") or ".." in re.split(r"[/\\]", key):
        return "the key leaves its folder", printable
    return None, printable


def _is_escaped(key: str) -> bool:
    """Whether all surrogates in `key` stand for bytes that were no UTF-8."""
    return all(0xDC80 <= ord(letter) <= 0xDCFF for letter in key if 0xD800 <= ord(letter) <= 0xDFFF)


def sample_of(key: str, members: dict[str, bytes], problems: Problems) -> Sample:
    """The sample that `members` (lower-case ending -> content) make up.

    A label in .cls goes before one in .json, and that before .txt, which may be a class name.
    """
    members, problems = dict(members), list(problems)
    image = next((members.pop(name) for name in IMAGES if name in members), None)
    if image is None:
        have = ", ".join(sorted(members)[:5]) or "nothing else"
        problems.append(("MissingImage", f"no member has {' '.join(IMAGES)} behind the first dot of its name; there is {have}"))
    number = _text_label(members.pop("cls", None), "cls", problems)
    named = _text_label(members.pop("txt", None), "txt", problems)
    annotations = parse_json(members.pop("json", None), problems)
    if number is not None:
        annotations["label"] = number
    elif annotations.get("label") is None:
        annotations["label"] = named
    return described(key, image, annotations, members, problems)


def described(key: str, image: bytes | None, annotations: dict, members: dict[str, bytes], problems: Problems) -> Sample:
    """The sample with what `annotations` say of label, split, boxes and parts checked, and the rest kept as it is."""
    rest = dict(annotations)
    stated = rest.pop("label", None)
    label = label_of(stated, problems)
    name, split = (_text(rest.pop(field, None), field, problems) for field in ("label_name", "split"))
    boxes = boxes_of(rest.pop("boxes", None), problems)
    points = points_of(rest.pop("parts", None), problems)
    parts = part_names_of(rest.pop("part_names", None), problems)
    restated = label is not None and isinstance(stated, float)
    return Sample(key, image, label, name, boxes, points, parts, split, rest, members, tuple(problems), restated)


def _text(value: object, field: str, problems: Problems) -> str | None:
    if value is None or isinstance(value, str):
        return value
    problems.append(("BadAnnotation", f"{field} is {_brief(value)}, not text"))
    return None


def _text_label(raw: bytes | None, ending: str, problems: Problems) -> int | float | str | None:
    if raw is None:
        return None
    text = raw[: 4 * LABEL_LIMIT].decode("utf-8", "replace").strip().removeprefix("\ufeff")
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if ending == "cls" and re.fullmatch(WHOLE, text):
        return float(text)
    if ending == "cls":
        problems.append(
            ("BadAnnotation", f"cls is {_brief(text)}, not an integer: write a class number from 0, or a name into txt or json")
        )
        return None
    if len(raw) > 4 * LABEL_LIMIT or len(text) > LABEL_LIMIT or "\ufffd" in text or not text.isprintable():
        problems.append(("BadAnnotation", f"txt is {_brief(text)}, not the name of a class"))
        return None
    return text or None


def parse_json(raw: bytes | None, problems: Problems) -> dict:
    """The object in `raw`, or {} with the reason among `problems`. Size and nesting are bounded."""
    if raw is None:
        return {}
    try:
        if len(raw) > JSON_LIMIT:
            raise ValueError(f"it has {len(raw):,} bytes; at most {JSON_LIMIT:,} are read")
        value = json.loads(raw)
        if not isinstance(value, dict):
            raise ValueError(f"it holds {_brief(value)}, not an object")
        if raw.count(b"[") + raw.count(b"{") > NESTING_LIMIT:
            _refuse_deep(value)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is legal JSON and no text
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        problems.append(("BadAnnotation", f"json cannot be read: {reason}"))
        return {}
    return value


def _refuse_deep(value: dict) -> None:
    """Walked level by level: how deep the interpreter's own stack reaches depends on who calls."""
    level: list = [value]
    for _ in range(NESTING_LIMIT):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested more than {NESTING_LIMIT} deep")


def _inside(value: dict | list | tuple) -> Iterable:
    return value.values() if isinstance(value, dict) else value


def label_of(value: object, problems: Problems) -> int | str | None:
    """A label as it was given: a class number or a class name."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and len(value) <= LABEL_LIMIT:
        return value.strip() or None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    way = ": write 0 for false and 1 for true" if isinstance(value, bool) else ": write a class number from 0, or a class name"
    problems.append(("BadAnnotation", f"label is {_brief(value)}, neither an integer nor a class name{way}"))
    return None


def boxes_of(value: object, problems: Problems) -> list[Box]:
    """The boxes that are four ordered finite numbers; the others become problems."""
    if value is None:
        return []
    if not isinstance(value, list):
        problems.append(("BadAnnotation", f"boxes is {_brief(value)}, not a list"))
        return []
    if len(value) > BOXES_LIMIT:
        problems.append(("BadAnnotation", f"boxes has {len(value):,} entries; at most {BOXES_LIMIT:,} are taken"))
        return []
    boxes = []
    for item in value:
        box = [item.get(side) for side in ("x0", "y0", "x1", "y1")] if isinstance(item, dict) else item
        reason = _bad_box(box)
        if reason:
            problems.append(("BadBox", f"{_brief(box)} {reason}"))
        else:
            x0, y0, x1, y1 = map(float, box)
            boxes.append((x0, y0, x1, y1))
    return boxes


def _bad_box(box: object) -> str | None:
    if not isinstance(box, list | tuple) or len(box) != 4:
        return "is not [x0, y0, x1, y1]"
    reason = _bad_numbers(box)
    if not reason and (box[0] >= box[2] or box[1] >= box[3]):
        return "has no area"
    return reason


def _bad_numbers(numbers: Iterable) -> str | None:
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        return "holds something that is not a number"
    if any(abs(number) > PIXELS_NOT_FRACTIONS for number in numbers):  # before the test below: a huge integer is no float
        return "is not in fractions of the image"
    return None if all(map(math.isfinite, numbers)) else "holds a number that is not finite"


def points_of(value: object, problems: Problems) -> dict[str, Point]:
    """Part name -> x y, of the parts that have two finite numbers; a part that is null cannot be seen, and others become problems."""
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > PARTS_LIMIT:
        problems.append(("BadAnnotation", f"parts is {_brief(value)}, not an object of at most {PARTS_LIMIT} points by name"))
        return {}
    points = {}
    for name, point in value.items():
        if point is None:
            continue
        reason = "is not [x, y]" if not isinstance(point, list | tuple) or len(point) != 2 else _bad_numbers(point)
        if reason:
            problems.append(("BadPoint", f"{_brief(name)}: {_brief(point)} {reason}"))
        else:
            x, y = map(float, point)
            points[name] = x, y
    return points


def part_names_of(value: object, problems: Problems) -> tuple[str, ...]:
    """The names an index image refers to, all of them or none."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > PARTS_LIMIT or not all(isinstance(name, str) for name in value):
        problems.append(("BadAnnotation", f"part_names is {_brief(value)}, not a list of at most {PARTS_LIMIT} names"))
        return ()
    return tuple(value)


def _brief(value: object) -> str:
    """`value` short enough for a message; a huge number or list is not spelled out."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a number of more than 18 digits"
    if isinstance(value, list | dict) and len(value) > 4:
        return f"a {type(value).__name__} of {len(value):,}"
    if isinstance(value, list | dict | tuple):
        text = _flat(value)
    else:
        text = ascii(value) if isinstance(value, str | float | int | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flat(value: list | dict | tuple) -> str:
    kinds = [_brief(inner) if not isinstance(inner, list | dict | tuple) else type(inner).__name__ for inner in list(_inside(value))[:4]]
    return f"[{', '.join(kinds)}]"
