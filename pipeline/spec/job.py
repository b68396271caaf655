"""An explain job as a value: the fields of the command line and of a `--config` file."""

from dataclasses import dataclass
from typing import Literal

from pipeline.classes.texts import TEMPLATES
from pipeline.refusal import Count, Fraction, Positive, Refusal, Whole, check_numbers
from pipeline.spec.command_line import reachable_from_cluster

Activation = Literal["softmax", "sigmoid"]
Precision = Literal["fp32", "bf16", "fp16"]
WideColumn = Literal["features", "logits"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Explain every image of a dataset: shards in, a published run of Parquet tables out."""

    source: tuple[str, ...]
    """Shards: WebDataset tars, image folders or Parquet files; any fsspec URL, with {00000..00049} ranges and globs."""
    backbone: str
    """timm/NAME for a timm network, open_clip/ARCH/TAG for an open_clip network, train/PATH for a checkpoint of jobs.train, or
    my_module:build for your own."""
    out: str
    """The folder or bucket of the tables, shared by all runs."""
    methods: tuple[str, ...] = ("grad_cam",)
    """Methods by name, `all`, or family:NAME; name(setting=value) sets, alias=name(...) renames. None: features and predictions alone."""
    targets: tuple[str, ...] = ("label",)
    """The scalars to explain; settings and aliases as for methods."""
    metrics: tuple[str, ...] = ()
    """Metrics by name, `all`, or family:NAME, settings and aliases as for methods; fake_cam and random are scored beside the methods."""
    method_args: tuple[str, ...] = ()
    """Settings of methods: grad_cam_pp.eps=1e-6 ..."""
    target_args: tuple[str, ...] = ()
    """Settings of targets: finer.gamma=0.8 ..."""
    metric_args: tuple[str, ...] = ()
    """Settings of metrics: pxap.bins=2000 ..."""
    weight_similarity: bool = False
    """How alike the classes are to the classifier, as rows of `curves`: cosines of its rows, most similar class first."""
    analyses: tuple[str, ...] = ()
    """Tables computed from the tables of the run, by name, or `all`: agreement, mean_maps ...; docs/analyses.md says what they hold."""
    analysis_args: tuple[str, ...] = ()
    """Settings of analyses: aggatt.metric=energy ..."""
    plugins: tuple[str, ...] = ()
    """Methods and metrics of your own: .py files or modules that use the decorators of pipeline.families."""
    weights: str | None = None
    """Weights of the backbone: a safetensors file, any URL, or hf-hub:ORG/NAME; the model's own by default."""
    backbone_args: tuple[str, ...] = ()
    """KEY=VALUE for the network's constructor (num_classes, pad_type; pool, projection for open_clip) and its preprocessing (mean, std,
    interpolation, crop_pct)."""
    probe: str | None = None
    """A linear probe that jobs.probe has trained on this backbone, in place of its own classifier."""
    layer: str | None = None
    """Module whose output is explained; by default the last feature map before pooling, or norm1 of the last transformer block."""
    image_size: Count | None = None
    """Side of the network's input in pixels; the model's own by default."""
    crop: Literal["squash", "center"] = "squash"
    """How an image gets to the input size: squashed (boxes hold as they are) or centre-cropped (boxes are clipped)."""
    classes: str | None = None
    """A file with one class name a line, in class order: gives labels their names, and folder names their labels."""
    text_classes: str | None = None
    """A file with a class name or phrase a line: an open_clip backbone's classes are these texts, logit scale x cosine their logits."""
    templates: tuple[str, ...] = TEMPLATES
    """Sentences that the texts are filled into, at {}; the embeddings of several are normalised, averaged and normalised again."""
    class_sets: str | None = None
    """A JSON file of named sets of classes, {name: [class numbers or names]} or {name: {"synset": id}}, for targets class_set:NAME."""
    is_a: str | None = None
    """WordNet's is-a relation, lines `parent child`, for class sets given by synset; the classes' names are then WordNet ids."""
    activation: Activation = "softmax"
    """The function from logits to probabilities."""
    select: str | None = None
    """A SQL condition over the columns of `predictions`; maps are computed only where it holds: "predicted <> label"."""
    limit: Count | None = None
    """Only the first N images, shard by shard."""
    sample: Count | None = None
    """Only N images, drawn by the seed from all shards."""
    seed: int = 0
    """Seeds every random draw, together with each image's key and bytes."""
    map_size: Count = 56
    """Side to which pixel-level maps are averaged down for storage."""
    no_store: tuple[WideColumn, ...] = ()
    """Wide columns to leave out."""
    precision: Precision = "fp32"
    """Arithmetic of the network; anything but fp32 moves the maps."""
    batch_size: str = "auto"
    """Images in one pass through the network, or auto. Values do not depend on it beyond their last digits."""
    task_images: Count = 256
    """Images in one task: the unit of work and of resuming."""
    workers: Whole | None = None
    """Explaining actors: one per GPU, or one per CPU, by default. 0 runs in this process, without Ray."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device that networks run on."""
    name: str = "default"
    """Name the run is published under in current.json."""
    add: bool = False
    """Keep the methods, targets and metrics of the run published under this name beside those that are asked for."""
    delta: bool = False
    """Commit the run's own files as Delta tables, one for each table, at addresses that stay: OUT/lake/NAME/TABLE."""
    single_writer: bool = False
    """Promise that no other job publishes to this place, where the store has no conditional write."""
    max_failed: Fraction = 1.0
    """The largest share of images, or of shards, that may fail in a run that is published; beyond it the last one stays."""
    task_timeout: Positive = 3600.0
    """Seconds a worker may spend on one task before it is stopped; a task that stops its worker three times is an error."""
    stop_after: Positive | None = None
    """Seconds after which the job breaks off, once the task it waits for is done; finished tasks stay, and the next job goes on from them."""
    dry: bool = False
    """Say what would be computed and why, and stop."""
    log: Literal["text", "json"] = "text"
    """The output on the screen: readable lines, or the events, one JSON object a line, as OUT/jobs/NAME.events.jsonl has them."""

    def __post_init__(self):
        check_numbers(self)
        if self.batch_size != "auto" and not (self.batch_size.isdigit() and int(self.batch_size)):
            raise Refusal(f"--batch-size is {self.batch_size!r}; it must be auto or a whole number of images")
        if self.limit is not None and self.sample is not None:
            raise Refusal(f"--limit {self.limit} and --sample {self.sample} both say which images; give one of them")
        if not self.source or not self.out:
            raise Refusal("--source and --out must name a place")
        reachable_from_cluster({"--out": (self.out,), "--source": self.source})
