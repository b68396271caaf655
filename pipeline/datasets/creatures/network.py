"""The small network that is trained on the creatures, and where its weights are."""

import json
from pathlib import Path
from typing import Any

NAME = "test_resnet"  # timm: a ResNet of four blocks, 0.4 million parameters; head: average pooling + linear
# one group per normalisation: no batch statistics; stride 8: maps of 16 x 16 cells
ARGS: dict[str, Any] = {"num_classes": 12, "norm_layer": "groupnorm1", "output_stride": 8}
IMAGE_SIZE = 128
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
WEIGHTS = Path(__file__).with_name("weights.safetensors")


def weights_path() -> Path:
    """The trained weights that are shipped with the package (safetensors, float16)."""
    return WEIGHTS


def sidecar() -> dict:
    """Read the description of the shipped weights: the model and how it was trained, its measured accuracy (fractions).

    Raises:
        FileNotFoundError: nothing was trained yet; `python -m pipeline.datasets.creatures.train` does.
    """
    return json.loads(WEIGHTS.with_suffix(".json").read_text())
