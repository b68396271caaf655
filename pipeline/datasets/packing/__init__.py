"""A dataset directory to WebDataset shards, with everything its layout says of an image inside the image's sample."""

from pipeline.datasets.packing.job import Pack
from pipeline.datasets.packing.run import pack

__all__ = ["Pack", "pack"]
