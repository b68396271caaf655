"""A task is read: its images are decoded."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline import storage
from pipeline.plan.task import Task
from pipeline.sources import Problem, Sample, read
from pipeline.sources.decode import DecodedImage, Undecodable, decode
from pipeline.sources.images import DecodedImages, pack_rows
from pipeline.sources.labels import Classes, resolve
from pipeline.stages.land import to_ipc
from pipeline.tables import receipts

if TYPE_CHECKING:  # its module loads torch, which a process that reads does without
    from pipeline.plan.check import CheckedJob


@dataclass(frozen=True)
class Read:
    """Task -> its decoded pictures. What cannot be read is told in `samples`, and everything else is there."""

    size: tuple[int, int]
    interpolation: str
    crop: str
    crop_pct: float
    classes: Classes
    names_are_labels: bool = True
    out: str = ""

    @staticmethod
    def of(checked: "CheckedJob") -> "Read":
        """The reading stage of a checked job."""
        backbone, prepare = checked.backbone, checked.backbone.prepare
        crop = prepare.interpolation, prepare.crop, prepare.crop_pct
        return Read(backbone.image_size, *crop, checked.classes, checked.names_are_labels, checked.job.out)

    def __call__(self, row: dict) -> dict:
        started, before, task = time.perf_counter(), storage.retries(), Task.from_json(row["task"])
        try:
            # Reading goes on over the same bytes from the start: what broke off in the middle of a file is no single request.
            pictures, size = storage.retrying(lambda: self._pictures(task))
            maps = to_ipc(receipts.row_groups(self.out, task.maps)) if task.maps else b""
        except Exception as error:
            return unread(row, task.failure(error, "read"))
        rows, codes = pack_rows(pictures.rows)
        told = {"rows": rows, "digests": pictures.digests, "errors": pictures.errors, "bytes": size}
        told |= {"seconds": time.perf_counter() - started, "retries": storage.retries() - before}
        return {"task": row["task"], "pixels": pictures.pixels.tobytes(), "codes": codes, "maps": maps, "samples": json.dumps(told)}

    def _pictures(self, task: Task) -> tuple[DecodedImages, int]:
        """The task's pictures, and the bytes they were encoded in."""
        pixels, rows, digests, errors, size = [], [], [], [], 0
        for sample in read(task.shard, task.start, task.stop, task.index):
            image_id = task.shard.image_id(sample.key)

            def fail(stage: str, error: str, message: str, image_id: str = image_id) -> None:
                errors.append(Problem(image_id, task.shard.name, stage, error, message).to_row())

            for error, message in sample.problems:
                fail("read", error, message)
            if sample.image is None:
                continue
            size += len(sample.image)
            given = sample.label if self.names_are_labels or not isinstance(sample.label, str) else None
            label, name, problem = resolve(given, self.classes)
            if problem:
                fail("label", *problem)
            try:
                picture = decode(sample.image, self.size, self.interpolation, self.crop, self.crop_pct)
            except Undecodable as error:
                fail("decode", error.error, error.message)
                continue
            pixels.append(picture.pixels)
            digests.append(hashlib.sha256(sample.image).hexdigest())
            rows.append(
                {
                    "image_id": image_id,
                    "shard": task.shard.name,
                    "key": sample.key,
                    "width": picture.width,
                    "height": picture.height,
                    "label": label,
                    "label_name": sample.label_name or name,
                    "boxes": [dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) for box in picture.boxes(sample.boxes)],
                    "split": sample.split,
                    "points": picture.points(sample.points),
                    **_codes(picture, sample, fail),
                }
            )
        stack = np.stack(pixels) if pixels else np.empty((0, 3, *self.size), np.uint8)
        return DecodedImages(stack, rows, digests, errors), size


def unread(row: dict, failure: dict) -> dict:
    """What reading a task comes to where it fails as a whole."""
    return {"task": row["task"], "pixels": b"", "codes": b"", "maps": b"", "samples": json.dumps({"failure": failure})}


def _codes(picture: DecodedImage, sample: Sample, fail: Callable) -> dict:
    """The annotations that come as images, None where there is none; one that is damaged is told, and the image goes on without it."""
    found = {}
    for name in ("mask", "parts"):
        found[name] = None
        png = sample.members.get(f"{name}.png")
        try:
            found[name] = None if png is None else picture.codes(png)
        except Undecodable as error:
            fail("decode", error.error, f"{name}.png: {error.message}")
    if found["parts"] is not None and found["parts"].max() > len(sample.part_names):
        fail("decode", "BadMask", f"parts.png: it holds {found['parts'].max()}, and part_names has {len(sample.part_names)} names")
        found["parts"] = None
    # pixels go to the nearest point, as far as the object reaches
    nearest = found["mask"] is not None and found["parts"] is None and sample.points
    found["silhouette"] = picture.silhouette(sample.members["mask.png"]) if nearest else None
    return {**found, "has_mask": found["mask"] is not None, "part_names": sample.part_names}
