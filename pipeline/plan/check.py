"""A job is checked as far as that goes before a worker starts; a job that makes no sense stops here."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline import sources
from pipeline.backbones import Backbone
from pipeline.backbones.arguments import key_value
from pipeline.backbones.network import Network
from pipeline.backbones.similarity import classifier
from pipeline.classes.class_sets import read_class_sets
from pipeline.classes.names import difference
from pipeline.plan.fit import fit_to_backbone, refuse_one_logit, with_class_sets
from pipeline.plan.outputs import outputs_of
from pipeline.refusal import Refusal
from pipeline.sources.labels import Classes, are_numbers, folder_names, in_number_order, read_names, unknown_folders
from pipeline.spec.explain_spec import ExplainSpec, Kept, build_spec
from pipeline.spec.grammar import Choice
from pipeline.spec.job import Job
from pipeline.spec.output import Output
from pipeline.tables import Run, files
from pipeline.tables.lake import delta
from pipeline.targets import TARGETS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedJob:
    """A job with its network, its explain spec and its shards; `base` is the published run that it adds metrics to.

    `analyses` are those that it asks for; the room that knows them adds them.
    """

    job: Job
    network: Network
    backbone: Backbone
    spec: ExplainSpec
    skipped: list[dict]
    shards: list[sources.Shard]
    classes: Classes
    names_are_labels: bool
    base: Run | None = None
    analyses: tuple[Choice, ...] = ()

    @cached_property
    def outputs(self) -> list[Output]:
        return outputs_of(self.spec, self.backbone, self.classes.names)


def check_job(job: Job, stored: Sequence[Choice] = (), kept: Kept = ((), ())) -> CheckedJob:
    """Check everything that can be wrong with a job before a worker is started.

    Parameters:
        stored: metrics of maps as they are stored.
        kept: methods and metrics beside those that the job names.

    Raises:
        Refusal: in one line, with the fix.
    """
    files.check_writable(job.out)
    if job.delta:
        delta.check(job.out, job.name)
    arguments = tuple(key_value(item, "--backbone-args") for item in job.backbone_args)
    texts = read_texts(job.text_classes) if job.text_classes else ()
    network = Network(job.backbone, job.weights, arguments, job.layer, job.image_size, job.crop, job.seed, texts, job.templates)
    spec = build_spec(
        job.methods,
        job.targets,
        job.method_args,
        job.target_args,
        job.metrics,
        job.metric_args,
        job.plugins,
        stored,
        kept,
        activation=job.activation,
        precision=job.precision,
        map_size=job.map_size,
        seed=job.seed,
        select=job.select,
        no_store=job.no_store,
    )
    network = replace(network, phrases=spec.phrases, probe=job.probe)
    shards = sources.list_shards(job.source)
    backbone = network.load()
    refuse_one_logit(backbone, spec.activation)  # before folders are compared with the one class
    classes, names_are_labels = _classes(job, shards, backbone, texts, spec)
    if job.class_sets:
        spec = with_class_sets(spec, read_class_sets(job.class_sets, classes, job.is_a))
    spec, skipped = fit_to_backbone(spec, backbone)
    if job.weight_similarity:
        classifier(backbone)
    if job.precision != "fp32":
        log.warning("--precision %s moves every map a little, and some by more: docs/precision.md says how far", job.precision)
    for item in skipped:
        log.warning("skipping %s: %s", item.get("method") or item["metric"], item["reason"])
    network = replace(network, phrases=spec.phrases)  # a file of attributes has many, of which few are explained
    return CheckedJob(job, network, backbone, spec, skipped, shards, classes, names_are_labels)


def _classes(
    job: Job, shards: Sequence[sources.Shard], backbone: Backbone, texts: tuple[str, ...], spec: ExplainSpec
) -> tuple[Classes, bool]:
    """The classes in order, and whether the class name of a folder or a sample is a label."""
    folders, count = folder_names(shards), backbone.num_classes
    if job.classes:
        names = read_names(job.classes)
        if backbone.classes and names != backbone.classes:
            raise Refusal(
                f"{backbone.name} was trained on other classes than --classes {job.classes}: {difference(backbone.classes, names)}"
            )
        _tell_unknown(folders, Classes(count or len(names), names), f"--classes {job.classes}")
        return Classes(count or len(names), names), True  # a network without classes leaves their number to the file
    if texts:
        _tell_unknown(folders, Classes(count, texts), f"--text-classes {job.text_classes}")
        return Classes(count, texts), True
    if backbone.classes:
        classes = Classes(count, backbone.classes)
        if problem := unknown_folders(folders, classes, backbone.name):
            raise Refusal(f"{problem}; its classes begin {backbone.classes[:3]}")
        return classes, True
    problem = _unordered(folders, count)
    if not problem:
        return Classes(count, folders), True
    if any(TARGETS[target.name].needs_label for _, target in spec.pairs()):
        raise Refusal(f"{problem}; give --classes FILE with one class name a line, in the network's order, or explain --targets predicted")
    log.warning("%s: images go without a label", problem)
    return Classes(count), False


def _tell_unknown(folders: Sequence[str], classes: Classes, names_in: str) -> None:
    if problem := unknown_folders(folders, classes, names_in):
        log.warning("%s; their images go without a label", problem)


def _unordered(folders: Sequence[str], count: int) -> str | None:
    """Why the names of folders in the order of text are not known to be a network's classes in its order; None where they are."""
    if folders and len(folders) != count:
        above = f" (is {folders[0]!r} the folder that theirs lie in?)" if len(folders) == 1 else ""
        return f"the folders name {len(folders)} classes{above} and the network has {count}, so their order is unknown"
    ordered = in_number_order(folders)
    if not ordered:
        return None
    first = next(i for i in range(count) if ordered[i] != folders[i])
    if are_numbers(folders):
        return f"the folders are numbers: class {first} is {ordered[first]!r} in their order and {folders[first]!r} in that of text (torchvision's)"
    log.warning("folders are classes in the order of text, %r before %r; --classes FILE gives another", folders[first], ordered[first])
    return None


def read_texts(url: str) -> tuple[str, ...]:
    """The texts of `--text-classes`, each a class.

    Raises:
        Refusal: where the file cannot be read, is empty or has an empty line.
    """
    texts = read_names(url)
    if not texts or not all(texts):
        raise Refusal(f"--text-classes {url} has {'no line' if not texts else 'an empty line'}; write a class name or phrase on each line")
    return texts
