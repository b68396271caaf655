"""Thumbnails of the shown images, as the network sees them: read from the shards, where these can be reached."""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from pipeline import sources
from pipeline.refusal import Refusal, one_line
from pipeline.sources import Sample, Shard, SourceError
from pipeline.sources.decode import Undecodable, decode

log = logging.getLogger(__name__)
LARGEST = 14_000  # bytes of an encoded thumbnail
QUALITIES = (85, 70, 50, 30)


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG of the part of an image that the network sees, and the parts of the object in it: name -> (x, y) as fractions."""

    jpeg: bytes
    points: Mapping[str, tuple[float, float]]


def thumbnails(run_manifest: Mapping, image_ids: Sequence[str], source: Sequence[str] = ()) -> tuple[dict[str, Thumbnail], str | None]:
    """Thumbnails by image id, and why some are missing.

    Images are read from the shards that hold them, each shard as far as its last one. A shard or an image that cannot be read costs its
    own pictures only.
    """
    names = {shard["name"] for shard in run_manifest["shards"]}
    try:
        shards = [shard for shard in sources.list_shards(source or run_manifest["job"]["source"]) if shard.name in names]
    except Refusal as refusal:
        return {}, f"the pictures cannot be read: {refusal}"
    prepare, found, problems = run_manifest["backbone"]["prepare"], {}, []
    wanted = set(image_ids)
    for shard, keys in _keys_by_shard(shards, wanted):
        try:
            for sample in _samples(shard, keys):
                if sample.image is not None:
                    found[shard.image_id(sample.key)] = _thumbnail(sample, prepare)
        except SourceError as error:
            problems.append(one_line(error))
    missing = len(wanted - found.keys())
    reason = problems[0] if problems else "they are not in the shards any more"
    return found, f"{missing} of {len(wanted)} pictures are missing: {reason}" if missing else None


def _keys_by_shard(shards: Sequence[Shard], image_ids: set[str]) -> Iterator[tuple[Shard, set[str]]]:
    """Each shard that may hold some of the images, with their keys in it."""
    for shard in shards:
        prefix = f"{shard.name}/" if shard.name else ""
        keys = {image_id[len(prefix) :] for image_id in image_ids if image_id.startswith(prefix)}
        if keys:
            yield shard, keys


def _samples(shard: Shard, keys: set[str]) -> Iterator[Sample]:
    """The samples of some keys; the shard is read no further than the last of them."""
    missing = set(keys)
    if shard.kind == "folder":
        shard = _files_of(shard, keys)
    for sample in sources.read(shard) if shard.urls else ():
        if sample.key in missing:
            missing.remove(sample.key)
            yield sample
        if not missing:
            return


def _files_of(shard: Shard, keys: set[str]) -> Shard:
    """The chunk of a folder without the files of other keys."""
    kept = [(url, size) for url, size in zip(shard.urls, shard.sizes, strict=True) if url[len(shard.root) :].strip("/") in keys]
    return replace(shard, urls=tuple(url for url, _ in kept), sizes=tuple(size for _, size in kept))


def _thumbnail(sample: Sample, prepare: Mapping) -> Thumbnail:
    assert sample.image is not None
    try:
        image = decode(sample.image, tuple(prepare["size"]), prepare["interpolation"], prepare["crop"], prepare["crop_pct"])
    except Undecodable as error:
        raise SourceError(error.error, f"{sample.key}: {error.message}") from error
    return Thumbnail(_jpeg(image.pixels), image.points(sample.points))


def _jpeg(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [3 H W] as a JPEG of at most LARGEST bytes: at a lower quality, then at half the size, where it takes that."""
    picture = Image.fromarray(pixels.transpose(1, 2, 0))
    while True:
        for quality in QUALITIES:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=quality)
            if buffer.tell() <= LARGEST:
                return buffer.getvalue()
        picture = picture.reduce(2)
