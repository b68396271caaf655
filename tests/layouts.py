"""Miniatures of published datasets, file by file as they are published, with what each image's sample should then say."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tests.shards import encoded, picture

WIDTH, HEIGHT = 40, 20


@dataclass
class Mini:
    """What is expected of a miniature; samples by image path below the root."""

    classes: list[str]
    samples: dict[str, dict]
    level: str | None = None
    attributes: dict | None = None
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, np.ndarray] = field(default_factory=dict)


def put(path: Path, content) -> None:
    """Write text lines, bytes or a mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        content = encoded(Image.fromarray(content))
    if isinstance(content, list):
        content = "".join(f"{line}\n" for line in content).encode()
    path.write_bytes(content)


def photo(path: Path, seed: int, **options) -> None:
    """A JPEG of 40 x 20 pixels."""
    form = "PNG" if path.suffix == ".png" else "JPEG"
    put(path, encoded(picture(seed).resize((WIDTH, HEIGHT)), form, **options))


def half(value: int, other: int = 0) -> np.ndarray:
    """A mask whose left half has one value and whose right half has another."""
    mask = np.full((HEIGHT, WIDTH), other, np.uint8)
    mask[:, : WIDTH // 2] = value
    return mask


def cub(root: Path) -> Mini:
    names = ["001.Black_footed_Albatross/A_0046_18.jpg", "001.Black_footed_Albatross/A_0009_34.jpg", "002.Laysan_Albatross/B_0002_55.jpg"]
    names.append("002.Laysan_Albatross/B_0003_56.jpg")
    for seed, name in enumerate(names):
        photo(root / "images" / name, seed)
    put(root / "images.txt", [f"{i} {name}" for i, name in enumerate(names, 1)])
    put(root / "image_class_labels.txt", ["1 1", "2 1", "3 2", "4 2"])
    put(root / "train_test_split.txt", ["1 0", "2 1", "3 1", "4 0"])
    put(root / "classes.txt", ["1 001.Black_footed_Albatross", "2 002.Laysan_Albatross"])
    put(root / "bounding_boxes.txt", ["1 4.0 2.0 20.0 10.0", "2 0.0 0.0 40.0 20.0", "3 10.0 5.0 10.0 5.0", "4 30.0 10.0 20.0 20.0"])
    put(root / "parts" / "parts.txt", ["1 back", "2 beak", "3 left wing"])
    points = ["1 1 0.0 0.0 0", "1 2 10.0 10.0 1", "1 3 30.0 5.0 1"] + [f"{i} {p} 0.0 0.0 0" for i in (2, 3, 4) for p in (1, 2, 3)]
    put(root / "parts" / "part_locs.txt", points)
    put(root / "attributes" / "attributes.txt", ["1 has_bill_shape::dagger", "2 has_wing_color::blue"])
    put(root / "attributes" / "class_attribute_labels_continuous.txt", ["0.0 25.0", "100.0 12.5"])
    # the second line has a field more than the others, as a few of the official file do
    put(root / "attributes" / "image_attribute_labels.txt", ["1 1 1 3 2.5", "1 2 0 0 4 1.1", "2 2 1 4 0.5"])
    put(root / "segmentations" / names[0].replace(".jpg", ".png"), half(153, 102))
    rows = [(0, "test", [[0.1, 0.1, 0.6, 0.6]]), (0, "train", [[0, 0, 1, 1]])]
    rows += [(1, "train", [[0.25, 0.25, 0.5, 0.5]]), (1, "test", [[0.75, 0.5, 1, 1]])]
    samples = {
        f"images/{name}": {"label": label, "split": split, "boxes": boxes} for name, (label, split, boxes) in zip(names, rows, strict=True)
    }
    samples[f"images/{names[0]}"] |= {"parts": {"beak": [0.25, 0.5], "left wing": [0.75, 0.25]}, "attributes": [1, 0]}
    samples[f"images/{names[1]}"] |= {"attributes": [0, 1]}
    for name in names[2:]:
        samples[f"images/{name}"] |= {"attributes": [0, 0]}
    attributes = {"attributes": ["has_bill_shape::dagger", "has_wing_color::blue"], "values": [[0, 0.25], [1, 0.125]]}
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    return Mini(classes, samples, attributes=attributes, masks={f"images/{names[0]}": half(153, 102)})


CARS = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ferrari FF Coupe 2012"]
CAR_BOXES = [(1, 1, 20, 10), (5, 3, 40, 20), (9, 6, 16, 10), (21, 11, 30, 15)]
CAR_FRACTIONS = [[0, 0, 0.5, 0.5], [0.1, 0.1, 1, 1], [0.2, 0.25, 0.4, 0.5], [0.5, 0.5, 0.75, 0.75]]


def _mat(path: Path, rows: list[dict], **more) -> None:
    """A MATLAB file with a struct array `annotations`, and `class_names` as a cell array."""
    from scipy.io import savemat

    table = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        table[0, i] = tuple(row.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"annotations": table, **{name: np.array([value], dtype=object) for name, value in more.items()}})


def _car(box: tuple, label: int, **more) -> dict:
    return dict(zip(("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"), map(np.uint16, box), strict=True)) | {"class": np.uint8(label)} | more


def cars(root: Path) -> Mini:
    names, labels, tests = [f"car_ims/{i:06}.jpg" for i in range(1, 5)], [1, 3, 2, 3], [0, 0, 0, 1]
    for seed, name in enumerate(names):
        photo(root / name, seed)
    rows = [
        {"relative_im_path": name} | _car(box, label, test=np.uint8(test))
        for name, box, label, test in zip(names, CAR_BOXES, labels, tests, strict=True)
    ]
    _mat(root / "cars_annos.mat", rows, class_names=CARS)
    samples = {
        name: {"label": label - 1, "split": "test" if test else "train", "boxes": [box]}
        for name, label, test, box in zip(names, labels, tests, CAR_FRACTIONS, strict=True)
    }
    return Mini(CARS, samples)


def cars_devkit(root: Path) -> Mini:
    from scipy.io import savemat

    samples, labels = {}, [1, 3, 2, 3]
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array([CARS], dtype=object)})
    for split, path, which in (("train", "devkit/cars_train_annos.mat", (0, 1, 2)), ("test", "cars_test_annos_withlabels.mat", (3,))):
        rows = []
        for number, i in enumerate(which, 1):
            photo(root / f"cars_{split}" / f"{number:05}.jpg", i)
            rows.append(_car(CAR_BOXES[i], labels[i], fname=f"{number:05}.jpg"))
            samples[f"cars_{split}/{number:05}.jpg"] = {"label": labels[i] - 1, "split": split, "boxes": [CAR_FRACTIONS[i]]}
        _mat(root / path, rows)
    return Mini(CARS, samples)


def _aircraft(level: str) -> Callable[[Path], Mini]:
    tables = {
        "variant": ["707-320", "727-200", "A300B4", "A310"],
        "family": ["A300", "A310", "Boeing 707", "Boeing 727"],
        "manufacturer": ["Airbus", "Boeing"],
    }
    names = {"variant": ("variants", [0, 1, 2, 3]), "family": ("families", [2, 3, 0, 1]), "manufacturer": ("manufacturers", [1, 1, 0, 0])}
    images = ["0034309", "1025794", "0056978", "1340192", "0698580", "0450014", "1042824", "0894380"]

    def build(root: Path) -> Mini:
        data = root / "data"
        splits = ["train"] * 4 + ["val", "val", "test", "test"]
        for seed, image in enumerate(images):
            photo(data / "images" / f"{image}.jpg", seed)
        put(data / "images_box.txt", [f"{image} 5 3 {20 + 2 * i} 10" for i, image in enumerate(images)])
        for each, (plural, kinds) in names.items():
            put(data / f"{plural}.txt", tables[each])
            for split in ("train", "val", "test", "trainval"):
                lines = [f"{image} {tables[each][kinds[i % 4]]}" for i, image in enumerate(images) if splits[i] in split]
                put(data / f"images_{each}_{split}.txt", lines)
        kinds = names[level][1]
        samples = {
            f"data/images/{image}.jpg": {"label": kinds[i % 4], "split": splits[i], "boxes": [[0.1, 0.1, round(0.5 + 0.05 * i, 6), 0.5]]}
            for i, image in enumerate(images)
        }
        return Mini(tables[level], samples, level=level)

    return build


def birds525(root: Path) -> Mini:
    species, lines, samples = ["ABBOTTS BABBLER", "ABBOTTS BOOBY"], ["class id,filepaths,labels,data set,scientific name"], {}
    for label, name in enumerate(species):
        for folder, split in (("train", "train"), ("valid", "val"), ("test", "test")):
            path = f"{folder}/{name}/1.jpg"
            photo(root / path, len(lines))
            lines.append(f"{label}.0,{path},{name},{folder},MALACOCINCLA ABBOTTI")
            samples[path] = {"label": label, "split": split}
    put(root / "birds.csv", lines)
    return Mini(species, samples)


def _fishvista(level: str) -> Callable[[Path], Mini]:
    def build(root: Path) -> Mini:
        header = "filename,standardized_species,family,source"
        rows = {
            "a.jpg": ("notropis hudsonius", "Leuciscidae", "train"),
            "b.jpg": ("esox lucius", "Esocidae", "train"),
            "c.jpg": ("esox lucius", "Esocidae", "test"),
            "d.jpg": ("notropis hudsonius", "Leuciscidae", "val"),
        }
        for seed, name in enumerate(rows):
            photo(root / "Images" / name, seed)
        for split in ("train", "val", "test"):
            chosen = [f'{name},{species},{family},"glin, inhs"' for name, (species, family, which) in rows.items() if which == split]
            put(root / f"classification_{split}.csv", [header, *chosen])
        put(root / "segmentation_train.csv", [header, "a.jpg,notropis hudsonius,Leuciscidae,glin"])
        put(root / "segmentation_masks" / "seg_id_trait_map.json", [json.dumps({"0": "Background", "1": "Head", "2": "Eye"})])
        put(root / "segmentation_masks" / "images" / "a.png", half(2, 1) * half(1, 0))
        column = 1 if level == "family" else 0
        classes = sorted({row[column] for row in rows.values()}) if level != "segmentation" else ["notropis hudsonius"]
        shown = rows if level != "segmentation" else {"a.jpg": rows["a.jpg"]}
        samples = {f"Images/{name}": {"label": classes.index(row[column]), "split": row[2]} for name, row in shown.items()}
        samples["Images/a.jpg"]["part_names"] = ["Head", "Eye"]
        return Mini(classes, samples, level, masks={"Images/a.jpg": half(255)}, parts={"Images/a.jpg": half(2)})

    return build


SYNSETS = ["n01440764 tench, Tinca tinca", "n01443537 goldfish", "n01484850 great white shark"]
VAL = [f"ILSVRC2012_val_{i:08}" for i in (1, 2, 3)]
VAL_LABELS = [2, 0, 1]


def _xml(name: str, synset: str, boxes: list[tuple]) -> list[str]:
    objects = [
        f"<object><name>{synset}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    ]
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return ["<annotation>", f"<filename>{name}</filename>", size, *objects, "</annotation>"]


def _imagenet(labels: str) -> Callable[[Path], Mini]:
    def build(root: Path) -> Mini:
        for seed, (name, label) in enumerate(zip(VAL, VAL_LABELS, strict=True)):
            photo(root / "val" / f"{name}.JPEG", seed)
            boxes = [(4, 2, 20, 10)] + [(30, 0, 40, 20)] * (seed == 2)
            put(root / "bbox_val" / f"{name}.xml", _xml(name, SYNSETS[label].split()[0], boxes))
        # in the file the classes come in an order of their own
        put(root / "LOC_synset_mapping.txt", SYNSETS if labels != "xml" else SYNSETS[::-1])
        if labels == "solution":
            lines = [f"{name},{SYNSETS[label].split()[0]} 4 2 20 10 " for name, label in zip(VAL, VAL_LABELS, strict=True)]
            put(root / "LOC_val_solution.csv", ["ImageId,PredictionString", *lines[::-1]])
            put(root / "ImageSets" / "CLS-LOC" / "val.txt", [f"{name} {i}" for i, name in enumerate(VAL, 1)])
        elif labels == "caffe":
            put(root / "val.txt", [f"{name}.JPEG {label}" for name, label in zip(VAL, VAL_LABELS, strict=True)])
        elif labels == "synsets":
            lines = [SYNSETS[label].split()[0] for label in VAL_LABELS]
            put(root / "imagenet_2012_validation_synset_labels.txt", lines)
        elif labels == "devkit":
            devkit = root / "ILSVRC2012_devkit_t12" / "data"
            (root / "LOC_synset_mapping.txt").unlink()
            numbers = {0: 3, 1: 1, 2: 2}  # ILSVRC2012_ID of our classes; 4 is an inner node of the tree
            put(devkit / "ILSVRC2012_validation_ground_truth.txt", [str(numbers[label]) for label in VAL_LABELS])
            _meta(devkit / "meta.mat", numbers)
        expected = [[[0.1, 0.1, 0.5, 0.5]] + [[0.75, 0, 1, 1]] * (i == 2) for i in range(3)]
        samples = {
            f"val/{name}.JPEG": {"label": label, "split": "val", "boxes": boxes}
            for name, label, boxes in zip(VAL, VAL_LABELS, expected, strict=True)
        }
        return Mini(SYNSETS, samples)

    return build


def _meta(path: Path, numbers: dict[int, int]) -> None:
    from scipy.io import savemat

    rows = [(number, *SYNSETS[label].split(" ", 1), 0) for label, number in numbers.items()] + [(4, "n00001740", "entity", 3)]
    table = np.empty((len(rows), 1), dtype=[(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")])
    for i, row in enumerate(rows):
        table[i, 0] = row
    savemat(path, {"synsets": table})


def wsol(root: Path) -> Mini:
    """OpenImages30k: masks and ignore regions."""
    samples, masks = {}, {}
    for split in ("train", "val", "test"):
        ids = [f"{split}/{mid}/{name}.jpg" for mid, name in (("0bt_c3", "1cd9"), ("0bt9lr", "44aa"))]
        folder = root / "metadata" / "OpenImages" / split
        put(folder / "image_ids.txt", ids)
        put(folder / "class_labels.txt", [f"{image},{label}" for label, image in enumerate(ids)])
        put(folder / "image_sizes.txt", [f"{image},{WIDTH},{HEIGHT}" for image in ids])
        for label, image in enumerate(ids):
            photo(root / "dataset" / "OpenImages" / image, len(samples))
            samples[f"dataset/OpenImages/{image}"] = {"label": label, "split": split}
        if split == "train":
            continue
        first = ids[0].removesuffix(".jpg")
        top = half(255, 255)
        top[HEIGHT // 2 :] = 0
        for ending, mask in (("_m1", half(255)), ("_m2", half(0, 255) & top), ("_ignore", top)):
            put(root / "dataset" / "OpenImages" / f"{first}{ending}.png", mask)
        second = ids[1].removesuffix(".jpg")
        put(root / "dataset" / "OpenImages" / f"{second}_m1.png", half(255))
        put(root / "dataset" / "OpenImages" / f"{second}_ignore.png", half(255, 255))
        lines = [f"{ids[0]},{first}_m1.png,{first}_ignore.png", f"{ids[0]},{first}_m2.png,"]
        put(folder / "localization.txt", [*lines, f"{ids[1]},{second}_m1.png,{second}_ignore.png"])
        masks[f"dataset/OpenImages/{ids[0]}"] = half(255) | top
        masks[f"dataset/OpenImages/{ids[1]}"] = half(255, 128)
    return Mini(["0bt_c3", "0bt9lr"], samples, masks=masks)


def wsol_boxes(root: Path) -> Mini:
    """CUB's metadata; the boxes are measured in the size that image_sizes.txt says, twice that of the files here."""
    samples = {}
    for split in ("train", "test"):
        ids = ["001.Black_footed_Albatross/a.jpg", "002.Laysan_Albatross/b.jpg"]
        ids = [image.replace(".jpg", f"_{split}.jpg") for image in ids]
        put(root / split / "image_ids.txt", ids)
        put(root / split / "class_labels.txt", [f"{image},{label}" for label, image in reversed(list(enumerate(ids)))])
        put(root / split / "image_sizes.txt", [f"{image},{2 * WIDTH},{2 * HEIGHT}" for image in ids])
        put(root / split / "localization.txt", [f"{ids[0]},8,4,40,20", f"{ids[0]},0,0,80,40", f"{ids[1]},20,10,60,30"])
        boxes = [[[0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]], [[0.25, 0.25, 0.75, 0.75]]]
        for label, image in enumerate(ids):
            photo(root / image, len(samples))
            samples[image] = {"label": label, "split": split, "boxes": boxes[label]}
    return Mini(["001.Black_footed_Albatross", "002.Laysan_Albatross"], samples)


def splits(root: Path) -> Mini:
    """Chest X-ray."""
    samples = {}
    for split in ("train", "val", "test"):
        for label, name in enumerate(("NORMAL", "PNEUMONIA")):
            for ending in ("jpeg", "png"):
                path = f"{split}/{name}/person1_{split}.{ending}"
                photo(root / path, len(samples))
                samples[path] = {"label": label, "split": split}
    photo(root / "__MACOSX" / "train" / "._NORMAL.jpeg", 0)
    return Mini(["NORMAL", "PNEUMONIA"], samples)


def folder(root: Path) -> Mini:
    """Kvasir."""
    classes = ["dyed-lifted-polyps", "esophagitis", "z-line"]
    samples = {}
    for label, name in enumerate(classes):
        photo(root / name / "deep" / f"{label}.jpg", label)
        samples[f"{name}/deep/{label}.jpg"] = {"label": label, "split": "train"}
    return Mini(classes, samples)


def flat(root: Path) -> Mini:
    for i in range(2):
        photo(root / f"{i}.jpg", i)
    return Mini([], {f"{i}.jpg": {"label": None, "split": "train"} for i in range(2)})


def csv(root: Path) -> Mini:
    for i, name in enumerate(("a.jpg", "sub/b.png", "c.v2.jpg")):
        photo(root / name, i)
    lines = ["path,label,split,x0,y0,x1,y1", "a.jpg,zebra,train,0.1,0.1,0.5,0.5", "a.jpg,zebra,train,0.5,0.5,1,1"]
    put(root / "labels.csv", [*lines, "sub/b.png,ant,,,,,", "c.v2.jpg,ant,valid,0,0,1,1"])
    samples = {
        "a.jpg": {"label": 1, "split": "train", "boxes": [[0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 1, 1]]},
        "sub/b.png": {"label": 0, "split": "train"},
        "c.v2.jpg": {"label": 0, "split": "val", "boxes": [[0, 0, 1, 1]]},
    }
    return Mini(["ant", "zebra"], samples)


def numbered_csv(root: Path) -> Mini:
    for i in range(2):
        photo(root / f"{i}.jpg", i)
    put(root / "data.csv", ["path,label", "0.jpg,2", "1.jpg,0"])
    put(root / "classes.txt", ["black cat", "dog", "white cat"])
    samples = {"0.jpg": {"label": 2, "split": "train"}, "1.jpg": {"label": 0, "split": "train"}}
    return Mini(["black cat", "dog", "white cat"], samples)


# what the test calls it -> the layout that should recognise it, and what builds it
MINIATURES: dict[str, tuple[str, Callable[[Path], Mini]]] = {
    "cub": ("cub", cub),
    "cars": ("cars", cars),
    "cars devkit": ("cars", cars_devkit),
    **{f"aircraft {level}": ("aircraft", _aircraft(level)) for level in ("variant", "family", "manufacturer")},
    "birds525": ("birds525", birds525),
    **{f"fishvista {level}": ("fishvista", _fishvista(level)) for level in ("species", "family", "segmentation")},
    **{f"imagenet {labels}": ("imagenet_val", _imagenet(labels)) for labels in ("xml", "solution", "caffe", "synsets", "devkit")},
    "wsol masks": ("wsol", wsol),
    "wsol boxes": ("wsol", wsol_boxes),
    "splits": ("splits", splits),
    "folder": ("folder", folder),
    "flat folder": ("folder", flat),
    "csv": ("csv", csv),
    "csv of numbers": ("csv", numbered_csv),
}


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "L"
        return np.asarray(image)
