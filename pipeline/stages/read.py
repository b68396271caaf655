"""A task is read: its images are decoded."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline import storage
from pipeline.plan.task import Task
from pipeline.sources import Problem, Sample, read
from pipeline.sources.decode import DecodedImage, Undecodable, decode
from pipeline.sources.images import DecodedImages, ImageRow, part_names_misfit
from pipeline.sources.labels import Classes, resolve
from pipeline.stages.messages import ReadMessage, read_failure
from pipeline.tables import receipts

if TYPE_CHECKING:  # its module loads torch, which a process that reads does without
    from pipeline.plan.check import CheckedJob

Fail = Callable[[str, str, str], None]  # takes the stage, the kind of the error and its message


@dataclass(frozen=True)
class Read:
    """Task -> ReadMessage with its decoded images; an image that cannot be read is a row of errors, and the others are there."""

    size: tuple[int, int]
    interpolation: str
    crop: str
    crop_pct: float
    classes: Classes
    names_are_labels: bool = True
    out: str = ""
    opencv_masks: bool = False

    @staticmethod
    def of(checked: "CheckedJob") -> "Read":
        """The reading stage of a checked job."""
        backbone, prepare = checked.backbone, checked.backbone.prepare
        crop = prepare.interpolation, prepare.crop, prepare.crop_pct
        opencv_masks = any(metric.args.get("nearest") == "opencv" for metric in checked.spec.metrics)
        return Read(backbone.image_size, *crop, checked.classes, checked.names_are_labels, checked.job.out, opencv_masks)

    def __call__(self, row: dict) -> dict:
        start, retries, task = time.perf_counter(), storage.retries(), Task.from_json(row["task"])
        try:
            # Reading goes on over the same bytes from the start: a file that broke off in its middle is no single request.
            images, size = storage.retrying(lambda: self._images(task))
            stored_maps = receipts.row_groups(self.out, task.stored_maps) if task.stored_maps else None
        except Exception as error:
            return read_failure(row, task.failure(error, "read"))
        return ReadMessage(task, images, stored_maps, size, time.perf_counter() - start, storage.retries() - retries).to_row()

    def _images(self, task: Task) -> tuple[DecodedImages, int]:
        """The task's images, and the bytes they were encoded in."""
        pixels, rows, digests, size = [], [], [], 0
        errors: list[dict] = []
        chosen = frozenset(task.chosen)
        for position, sample in enumerate(read(task.shard, task.start, task.stop, task.index), task.start):
            if chosen and position not in chosen:
                continue
            image_id = task.shard.image_id(sample.key)

            def fail(stage: str, error: str, message: str, image_id: str = image_id) -> None:
                errors.append(Problem(image_id, task.shard.name, stage, error, message).to_row())

            for error, message in sample.problems:
                fail("read", error, message)
            if sample.image is None:
                continue
            size += len(sample.image)
            label, name = self._label(sample, fail)
            try:
                image = decode(sample.image, self.size, self.interpolation, self.crop, self.crop_pct)
            except Undecodable as undecodable:
                fail("decode", undecodable.error, undecodable.message)
                continue
            pixels.append(image.pixels)
            digests.append(hashlib.sha256(sample.image).hexdigest())
            identity = {"image_id": image_id, "key": sample.key, "shard": task.shard.name, "label": label, "label_name": name}
            row = _row(sample, image, identity, fail)
            if self.opencv_masks and row.mask is not None:
                row = replace(row, mask_opencv=image.codes_opencv(sample.members["mask.png"]))
            rows.append(row)
        stack = np.stack(pixels) if pixels else np.empty((0, 3, *self.size), np.uint8)
        return DecodedImages(stack, rows, digests, errors), size

    def _label(self, sample: Sample, fail: Fail) -> tuple[int | None, str | None]:
        """The class of a sample and its name."""
        label = sample.label if self.names_are_labels or not isinstance(sample.label, str) else None
        number, name, problem = resolve(label, self.classes)
        if problem:
            fail("label", *problem)
        return number, sample.label_name or name


def _row(sample: Sample, image: DecodedImage, identity: dict, fail: Fail) -> ImageRow:
    """The row of a decoded sample: a damaged annotation is a row of errors, and the image goes on without it."""
    mask, parts = _codes(sample, image, "mask", fail), _codes(sample, image, "parts", fail)
    misfit = None if parts is None else part_names_misfit(parts, sample.part_names)
    if misfit:
        fail("decode", "BadMask", f"parts.png: {misfit}")
        parts = None
    return ImageRow.annotated(
        **identity,
        width=image.width,
        height=image.height,
        split=sample.split,
        boxes=image.boxes(sample.boxes),
        points=image.points(sample.points),
        mask=mask,
        parts=parts,
        silhouette=lambda: image.silhouette(sample.members["mask.png"]),
        part_names=sample.part_names,
    )


def _codes(sample: Sample, image: DecodedImage, name: str, fail: Fail) -> np.ndarray | None:
    """An annotation that comes as an image [H W]; None where there is none."""
    png = sample.members.get(f"{name}.png")
    try:
        return None if png is None else image.codes(png)
    except Undecodable as error:
        fail("decode", error.error, f"{name}.png: {error.message}")
        return None
