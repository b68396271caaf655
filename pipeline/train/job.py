"""A training as a value: the fields of the command line and of a `--config` file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pipeline.refusal import Amount, Count, Level, Positive, Range, Refusal, Whole, check_numbers
from pipeline.spec.command_line import reachable_from_cluster


def _cache() -> str:
    return str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saliency-atlas")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Fine-tune a network on shards: a plain classifier or one with a CALM head, as a checkpoint that jobs.explain takes."""

    source: tuple[str, ...]
    """Shards, as for jobs.explain. A sample's `split` (train, val, test or a usual name of one) is heeded; one without is for training."""
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
    val_share: Level = 0.1
    """Share of the training images held out where no sample is for validation; 0 holds none out."""
    weights: str | None = None
    """Weights the trunk starts from, as for jobs.explain; train/FILE takes the trunk of an earlier training."""
    backbone_args: tuple[str, ...] = ()
    """KEY=VALUE for the network's constructor and preprocessing; pretrained=false starts from random weights."""
    output_stride: Count | None = 8
    """Pixels per cell of the trunk's map: later strides are removed. 8 gives 28 x 28 cells at 224; `None` keeps the network's own."""
    image_size: Count | None = None
    """Side of the network's input in pixels; the model's own by default."""
    epochs: Count = 40
    """Times every image is seen; with --head-epochs, after those."""
    batch_size: Count = 64
    """Images of one step, over all workers together."""
    lr: tuple[Positive, ...] = (0.01,)
    """Learning rate of the trunk. Of several, the one with the best validation accuracy is kept."""
    head_lr_factor: Amount = 10.0
    """The head learns at this multiple of the rate."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov's momentum, as in CALM; AdamW learns from random weights in fewer epochs."""
    momentum: Annotated[float, Range(0, 1, above=True, below=True)] = 0.9
    """Nesterov momentum, or AdamW's first beta."""
    weight_decay: Amount = 1e-4
    """L2 penalty on every parameter (AdamW's decay, apart from the loss)."""
    schedule: Literal["steps", "cycle"] = "steps"
    """steps divides the rate by ten every --decay-every epochs; cycle lets it rise for a fifth of --epochs and fall to zero."""
    decay_every: Count = 30
    """Epochs after which the rate is divided by ten, again and again."""
    clip: Amount = 0
    """Gradients longer than this are shortened to it; 0 leaves them as they are."""
    freeze: Literal["none", "trunk"] = "none"
    """trunk: its features are computed once, without augmentation, and the head alone learns."""
    head_epochs: Whole = 0
    """Epochs at the start in which the head alone learns, at --head-lr."""
    head_lr: Positive = 1e-3
    """Learning rate of those epochs."""
    batch_norm: Literal["auto", "frozen", "train"] = "auto"
    """Whether batch statistics are learned. auto freezes those of given weights that are folded (their means are all zero)."""
    positive: Literal["softplus", "relu"] = "softplus"
    """The function that makes CALM's location map positive."""
    normaliser: Literal["ordinary", "detached"] = "ordinary"
    """Whether the sum that normalises the location map passes a gradient; the released CALM code detaches it."""
    seed: int = 0
    """Seeds the head's weights, the order of the images and their crops."""
    workers: Whole = 0
    """Data-parallel workers on Ray, one GPU each where there are any; 0 trains in this process, without Ray."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device that trains the network."""
    cache: str = _cache()
    """A local folder for decoded images and features; it may be removed at any time."""
    log: Literal["text", "json"] = "text"
    """The output on the screen: readable lines, or events, one JSON object a line."""

    def __post_init__(self):
        check_numbers(self)
        if not self.lr or len(set(self.lr)) < len(self.lr):
            raise Refusal(f"--lr {' '.join(map(str, self.lr))}: a rate is needed, and each is given once")
        if not self.source or not self.out:
            raise Refusal("--source and --out must name a place")
        if self.freeze == "trunk" and self.head_epochs:
            raise Refusal("--freeze trunk trains the head alone already; leave --head-epochs out")
        reachable_from_cluster({"--out": (self.out,), "--source": self.source, "--val-source": self.val_source})
        if not self.backbone.startswith("timm/"):
            raise Refusal(f"--backbone {self.backbone}: training starts from a timm network; write timm/NAME")
