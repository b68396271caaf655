"""The ImageNet (ILSVRC2012) validation set as it is published: 50,000 images in one folder, boxes and classes beside them.

ILSVRC2012_val_00000001.JPEG ... anywhere below the root, and boxes in files of the same name ending in .xml, where they are there. Classes
come in the order networks have them, which is the sorted one of their synsets (n01440764 first), from the first there is of: a file that lists
synsets a line (LOC_synset_mapping.txt, synset_words.txt, synsets.txt, imagenet_wnids.txt), devkit's meta.mat. Labels come from the first
there is of: val.txt (`NAME.JPEG CLASS`, from 0), *validation_synset_labels.txt (a synset a line), LOC_val_solution.csv
(`ImageId,PredictionString`), ILSVRC2012_validation_ground_truth.txt (ILSVRC2012_ID a line; those are in an order of their own, so it takes meta.mat),
the names in the .xml files. Box coordinates count from 0.
"""

import io
import re
from collections.abc import Iterator, Sequence
from functools import cached_property

from pipeline.datasets.layouts.layout import Dataset, FileAnnotations, Layout, Record
from pipeline.datasets.layouts.tree import Tree, brief, numbers, whole
from pipeline.refusal import Refusal

IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")
SYNSET = re.compile(r"n\d{8}")
SYNSETS = ("LOC_synset_mapping.txt", "synset_words.txt", "synsets.txt", "imagenet_wnids.txt")
LISTED, SOLUTION, TRUTH, META = "val.txt", "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


class Files:
    """The paths of the parts of the set below a root."""

    def __init__(self, tree: Tree):
        self.tree = tree

    @cached_property
    def images(self) -> dict[str, str]:
        """ILSVRC2012_val_00000001 -> path."""
        return {
            name: path for path in self.tree.images if IMAGE.fullmatch(name := _stem(path)) and path.lower().endswith((".jpeg", ".jpg"))
        }

    @cached_property
    def boxes(self) -> dict[str, str]:
        return {name: path for path in self.tree.files if path.endswith(".xml") and IMAGE.fullmatch(name := _stem(path))}

    @cached_property
    def meta(self) -> dict[int, tuple[str, str]]:
        """ILSVRC2012_ID -> synset and words; only the thousand leaves."""
        path = self.tree.named(META)
        return _meta(self.tree, path) if path else {}

    @cached_property
    def synsets(self) -> dict[str, str]:
        """Synset -> class name, in class order."""
        path = next(filter(None, map(self.tree.named, SYNSETS)), None)
        if path:
            return _read_synsets(self.tree, path)
        if not self.meta:
            raise Refusal(f"{self.tree.root} has no list of synsets: add {SYNSETS[0]} or devkit's {META}")
        return dict(sorted(self.meta.values()))


def recognises(tree: Tree) -> bool:
    # Sorted by class into folders, it is a dataset of class folders; beside wsolevaluation's metadata, that decides.
    flat = (path for path in tree.images if not SYNSET.fullmatch(path.rpartition("/")[0].rpartition("/")[2]))
    return any(IMAGE.fullmatch(_stem(path)) for path in flat) and not tree.named("image_ids.txt")


def dataset(tree: Tree, level: None) -> Dataset:
    files = Files(tree)
    position = {synset: label for label, synset in enumerate(files.synsets)}
    labels = dict(_labels(files, position))
    stray = next((name for name in files.images if name not in labels), None)
    if stray:
        where = next(iter(labels.values()))[0].rpartition(":")[0] if labels else "the label file"
        raise Refusal(f"{where} labels {len(labels)} images and there are {len(files.images)}: {stray} has no label")
    lonely = next((path for name, path in files.boxes.items() if name not in labels), None)
    if lonely:
        raise Refusal(f"{lonely}: there is no image {_stem(lonely)}")

    def records() -> Iterator[Record]:
        for name, (where, label) in labels.items():
            boxes = (("boxes", files.boxes[name]),) if name in files.boxes else ()
            yield Record(files.images.get(name, f"{name}.JPEG"), label, "val", where, files=boxes, name=f"{name}.JPEG")

    return Dataset(tuple(f"{synset} {words}".strip() for synset, words in files.synsets.items()), records)


def read_files(record: Record, contents: Sequence[bytes]) -> FileAnnotations:
    (_, path), *_ = record.files
    root = _parse(path, contents[0])
    texts = [[(box.findtext(side) or "").strip() for side in ("xmin", "ymin", "xmax", "ymax")] for box in root.iter("bndbox")]
    size = [(root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    width, height = numbers(size, path) if all(size) and "0" not in size else (0.0, 0.0)
    boxes = []
    for sides in texts:
        x0, y0, x1, y1 = numbers(sides, path)
        boxes.append((x0, y0, x1, y1))
    return FileAnnotations(tuple(boxes), (width, height) if width else None)


def _labels(files: Files, position: dict[str, int]) -> Iterator[tuple[str, tuple[str, int]]]:
    """Image -> where it is labelled, and its label; in the order of the images' numbers or of the file."""
    tree = files.tree
    by_line = next((path for path in tree.files if path.endswith("validation_synset_labels.txt")), None)
    if path := _listing(tree):
        for where, (name, text) in tree.rows(path, 2):
            if not 0 <= (label := whole(text, where)) < len(position):
                raise Refusal(f"{where}: class {label} is outside 0 ... {len(position) - 1}")
            yield _stem(name), (where, label)
    elif by_line:
        for number, (where, (synset,)) in enumerate(tree.rows(by_line, 1), start=1):
            yield _name(number), (where, _label(where, synset, position))
    elif path := tree.named(SOLUTION):
        for where, row in sorted(tree.table(path, "imageid", "predictionstring"), key=lambda line: line[1]["imageid"]):
            yield row["imageid"], (where, _label(where, row["predictionstring"].split(" ")[0], position))
    elif path := tree.named(TRUTH):
        if not files.meta:
            raise Refusal(f"{path} numbers classes in the devkit's own order, which {META} of the devkit tells; add it")
        for number, (where, (text,)) in enumerate(tree.rows(path, 1), start=1):
            if (identity := whole(text, where)) not in files.meta:
                raise Refusal(f"{where}: {META} has no class {identity}")
            yield _name(number), (where, _label(where, files.meta[identity][0], position))
    elif files.boxes:
        for name, path in sorted(files.boxes.items()):
            synset = _parse(path, tree.content(path)).findtext("object/name") or ""
            yield name, (path, _label(path, synset.strip(), position))
    else:
        raise Refusal(f"{tree.root} has no labels: add {LISTED}, {SOLUTION}, {TRUTH} with {META}, or the boxes' .xml files")


def _listing(tree: Tree) -> str | None:
    """val.txt, if it is that of images and classes; another one of that name numbers the images."""
    path = tree.named(LISTED)
    first = next((line for _, line in tree.lines(path)), "") if path else ""
    return path if re.match(rf"{IMAGE.pattern}\.JPE?G\s", first, re.IGNORECASE) else None


def _label(where: str, synset: str, position: dict[str, int]) -> int:
    if synset not in position:
        raise Refusal(f"{where}: {brief(synset)} is none of the {len(position)} synsets")
    return position[synset]


def _parse(path: str, content: bytes):
    """An XML file's root element. Entities, which let a small file grow without bound or name other files, are refused."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        return fromstring(content, forbid_dtd=True)
    except DefusedXmlException as error:
        raise Refusal(f"{path} declares a document type or entities, which a box file has no use for; it is not read") from error
    except (ParseError, ValueError, LookupError) as error:
        raise Refusal(f"{path} is not XML: {brief(str(error))}") from error


def _read_synsets(tree: Tree, path: str) -> dict[str, str]:
    words_of = {}
    for number, line in tree.lines(path):
        synset, _, words = line.strip().partition(" ")
        if not SYNSET.fullmatch(synset) or synset in words_of:
            raise Refusal(f"{path}:{number}: {brief(synset)} is not a synset such as n01440764, or comes a second time")
        words_of[synset] = words.strip()
    return dict(sorted(words_of.items()))


def _meta(tree: Tree, path: str) -> dict[int, tuple[str, str]]:
    from scipy.io import loadmat

    try:
        rows = loadmat(io.BytesIO(tree.content(path)), squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): (str(row["WNID"]), str(row["words"])) for row in rows if int(row["num_children"]) == 0}
    except Exception as error:  # the file boundary: scipy meets damage with exceptions of many kinds
        raise Refusal(f"{path} is not a whole {META} of the devkit: {type(error).__name__}: {brief(str(error))}") from error


def _name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}"


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


LAYOUT = Layout(recognises, dataset, read_files=read_files)
