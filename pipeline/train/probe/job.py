"""A probe job as a value, and the explain job that makes its features."""

from dataclasses import dataclass
from typing import Literal

from pipeline.backbones.linear_probe import pooling
from pipeline.refusal import Amount, Count, Level, Positive, Refusal, Whole, check_numbers
from pipeline.spec.job import Job


@dataclass(frozen=True, kw_only=True)
class ProbeJob:
    """Train linear probes on the features of a frozen network: shards in, probes and their accuracy out."""

    train: tuple[str, ...]
    """Shards to train on, as for jobs.explain."""
    val: tuple[str, ...] = ()
    """Shards that choose the epoch and the settings; by default a share of the training images is held out for it."""
    test: tuple[str, ...] = ()
    """Shards that are only measured."""
    classes: str
    """A file with one class name a line, in class order."""
    backbone: str
    """As for jobs.explain; its own classifier is left out."""
    out: str
    """The folder or URL of the features, and of the probes below probes/NAME."""
    pools: tuple[str, ...] = ("",)
    """How a transformer's tokens become one feature: token avg (tok avg for open_clip); the network's own way by default."""
    solvers: tuple[Literal["adam", "lbfgs"], ...] = ("adam", "lbfgs")
    """Adam with early stopping, as Finer-CAM's release has it, and L-BFGS logistic regression to convergence."""
    lr: tuple[Positive, ...] = (3e-4,)
    """Adam's learning rates."""
    epochs: Count = 20
    """Adam's epochs; the best on the validation images is kept."""
    batch: Count = 128
    """Images in one step of Adam."""
    l2: tuple[Amount, ...] = (1.0,)
    """Penalties of L-BFGS: l2 / 2 |weight|^2 beside the sum of the cross-entropies; scikit-learn's 1 / C."""
    held_out: Level = 0.1
    """The share of the training images that validates where there is no --val."""
    keep_empty: bool = False
    """Train although some classes have no training image; they are then never predicted with confidence."""
    weights: str | None = None
    """As for jobs.explain."""
    backbone_args: tuple[str, ...] = ()
    """As for jobs.explain."""
    image_size: Count | None = None
    """As for jobs.explain."""
    crop: Literal["squash", "center"] = "squash"
    """As for jobs.explain."""
    seed: int = 0
    """Decides the held-out images, the first weights and the order of the images."""
    workers: Whole | None = None
    """As for jobs.explain."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """As for jobs.explain; the probes themselves are trained on the CPU."""
    task_images: Count = 256
    """As for jobs.explain."""
    name: str = "probe"
    """Names the features' runs and the probes' folder."""
    log: Literal["text", "json"] = "text"
    """As for jobs.explain."""

    def __post_init__(self):
        check_numbers(self)
        if not self.pools or (len(self.pools) > 1 and (not all(self.pools) or len({*self.pools}) < len(self.pools))):
            raise Refusal(f"--pools is {list(self.pools)}; name each pooling once")
        if not self.val and not self.held_out:
            raise Refusal("nothing chooses the epoch: give --val SHARDS or a --held-out share")

    def features(self) -> Job:
        """The explain job that computes the features of all poolings, side by side, and nothing else."""
        pooled = (f"{key}={value}" for key, value in pooling(self.backbone, ",".join(self.pools)).items())
        shared = ("backbone", "out", "weights", "image_size", "crop", "classes", "seed", "workers", "device", "task_images", "log")
        return Job(
            source=(*self.train, *self.val, *self.test),
            methods=(),
            targets=(),
            backbone_args=(*self.backbone_args, *pooled),
            no_store=("logits",),
            name="-".join(filter(None, (self.name, *self.pools))),
            **{field: getattr(self, field) for field in shared},
        )
