"""A training as a value: the fields of the command line and of a `--config` file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.refusal import Refusal
from pipeline.spec.command_line import reachable_from_cluster


def _cache() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saliency-atlas")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Fine-tune a network on shards: a plain classifier or one with a CALM head, as a checkpoint that jobs.explain takes."""

    source: tuple[str, ...]
    """Shards, as for jobs.explain. A sample's `split` (train, val, test) is heeded; one without is for training."""
    backbone: str
    """timm/NAME of a convolutional network; its classifier is replaced."""
    out: str
    """Where checkpoint.safetensors, training.json and the state to resume from go: a folder or a URL."""
    classes: str
    """A file with one class name a line, in class order, or the number of classes."""
    head: Literal["plain", "calm_em", "calm_ml"] = "plain"
    """Pooling and a linear layer, or CALM's two branches with the EM or the ML loss."""
    val_source: tuple[str, ...] = ()
    """Shards that are for validation, whatever their samples say."""
    train_split: str = "train"
    """The `split` of the samples that are for training."""
    val_share: float = 0.1
    """Share of the training images held out where no sample is for validation; 0 holds none out."""
    weights: str | None = None
    """Weights the trunk starts from, as for jobs.explain; train/FILE takes the trunk of an earlier training."""
    backbone_args: tuple[str, ...] = ()
    """KEY=VALUE for the network's constructor and preprocessing; pretrained=false starts from random weights."""
    output_stride: int | None = 8
    """Pixels per cell of the trunk's map: later strides are removed. 8 gives 28 x 28 cells at 224; `None` keeps the network's own."""
    image_size: int | None = None
    """Side of the network's input in pixels; the model's own by default."""
    epochs: int = 40
    """Times every image is seen; with --head-epochs, after those."""
    batch_size: int = 64
    """Images of one step, over all workers together."""
    lr: tuple[float, ...] = (0.01,)
    """Learning rate of the trunk. Of several, the one with the best validation accuracy is kept."""
    head_lr_factor: float = 10.0
    """The head learns at this multiple of the rate."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov's momentum, as in CALM; AdamW learns from random weights in fewer epochs."""
    momentum: float = 0.9
    """Nesterov momentum, or AdamW's first beta."""
    weight_decay: float = 1e-4
    """L2 penalty on every parameter (AdamW's decay, apart from the loss)."""
    schedule: Literal["steps", "cycle"] = "steps"
    """steps divides the rate by ten every --decay-every epochs; cycle lets it rise for a fifth of --epochs and fall to zero."""
    decay_every: int = 30
    """Epochs after which the rate is divided by ten, again and again."""
    clip: float = 0
    """Gradients longer than this are shortened to it; 0 leaves them as they are."""
    freeze: Literal["none", "trunk"] = "none"
    """trunk: its features are computed once, without augmentation, and the head alone learns."""
    head_epochs: int = 0
    """Epochs at the start in which the head alone learns, at --head-lr."""
    head_lr: float = 1e-3
    """Learning rate of those epochs."""
    batch_norm: Literal["auto", "frozen", "train"] = "auto"
    """Whether batch statistics are learned. auto freezes those of given weights that are folded (their means are all zero)."""
    positive: Literal["softplus", "relu"] = "softplus"
    """What makes CALM's location map positive."""
    normaliser: Literal["ordinary", "detached"] = "ordinary"
    """Whether the sum that normalises the location map passes a gradient; the released CALM code detaches it."""
    seed: int = 0
    """Seeds the head's weights, the order of the images and their crops."""
    workers: int = 0
    """Data-parallel workers on Ray, one GPU each where there are any; 0 trains in this process, without Ray."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network is trained."""
    cache: str = _cache()
    """A local folder for decoded images and features; it may be removed at any time."""
    log: Literal["text", "json"] = "text"
    """What the screen gets: readable lines, or events, one JSON object a line."""

    def __post_init__(self):
        at_least = {
            "epochs": 1,
            "batch_size": 1,
            "decay_every": 1,
            "head_epochs": 0,
            "workers": 0,
            "weight_decay": 0,
            "head_lr_factor": 0,
            "clip": 0,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise Refusal(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least {least}")
        if not self.lr or min(*self.lr, self.head_lr) <= 0 or len(set(self.lr)) < len(self.lr):
            raise Refusal(f"--lr {' '.join(map(str, self.lr))} --head-lr {self.head_lr}: rates are above 0 and each is given once")
        if not 0 <= self.val_share < 1:
            raise Refusal(f"--val-share is {self.val_share}; it must be at least 0 and below 1")
        if not 0 < self.momentum < 1:
            raise Refusal(f"--momentum is {self.momentum}; it must be above 0 and below 1")
        if not self.source or not self.out:
            raise Refusal("--source and --out must name a place")
        if self.freeze == "trunk" and self.head_epochs:
            raise Refusal("--freeze trunk trains the head alone already; leave --head-epochs out")
        reachable_from_cluster({"--out": (self.out,), "--source": self.source, "--val-source": self.val_source})
        if not self.backbone.startswith("timm/"):
            raise Refusal(f"--backbone {self.backbone}: training starts from a timm network; write timm/NAME")
