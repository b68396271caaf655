"""A training is checked as far as that goes before a worker starts; and the network that it starts from."""

import logging
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import sources
from pipeline.backbones.arguments import key_value, typed
from pipeline.backbones.cutting import strides
from pipeline.backbones.heads import Headed
from pipeline.backbones.libraries import checkpoint, timm_models
from pipeline.backbones.libraries.checkpoint import Recipe
from pipeline.backbones.preprocess import SETTINGS, Preprocessing, preprocessing, size_of, stated_config
from pipeline.backbones.weights import install_weights, read_weights, weights_digest
from pipeline.refusal import Refusal
from pipeline.sources.labels import Classes, read_names
from pipeline.tables import files
from pipeline.train.data import SPLITS, ImageSpec, use_of
from pipeline.train.job import Training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedTraining:
    """A checked training, with everything that a worker needs to begin.

    Attributes:
        start: hash of the tensors that the trunk starts from.
        frozen_norm: whether BatchNorm keeps its statistics.
    """

    job: Training
    recipe: Recipe
    image_spec: ImageSpec
    start: str
    frozen_norm: bool

    @property
    def prepare(self) -> Preprocessing:
        """The preprocessing of the network's input."""
        return preprocessing({}, self.recipe.prepare, self.recipe.size, "squash")

    @property
    def identity_fields(self) -> dict:
        """Everything beside the recipe and the rate that decides the values of every epoch."""
        names = ["batch_size", "head_lr_factor", "optimiser", "momentum", "weight_decay", "schedule", "decay_every", "clip"]
        names += ["freeze", "head_epochs", "head_lr", "seed"] + ["epochs"] * (self.job.schedule == "cycle")
        settings = {name: getattr(self.job, name) for name in names}
        return {**settings, "frozen_norm": self.frozen_norm, "images": self.image_spec.identity, "start": self.start}


def check_training(job: Training) -> CheckedTraining:
    """Check everything that can be wrong with a training before a worker is started.

    Raises:
        Refusal: in one line, with the fix.
    """
    files.check_writable(job.out)
    names = () if job.classes.isdigit() else read_names(job.classes)
    classes = Classes(len(names) or int(job.classes), names)
    settings, image_settings = _settings(job)
    network, pretrained = _build_network(job, settings)
    prepare = preprocessing(stated_config(network), image_settings, size_of(job.image_size), "squash")
    size = prepare.size
    trunk, stride = strides.trunk(network, size, job.output_stride)
    recipe = Recipe(
        network=job.backbone.removeprefix("timm/"),
        args={key: value for key, value in settings.items() if key not in ("pretrained", "num_classes")},
        size=size,
        stride=stride,
        head=job.head,
        num_classes=classes.num_classes,
        classes=classes.names,
        prepare={"mean": prepare.mean, "std": prepare.std, "interpolation": prepare.interpolation},
    )
    if job.head != "plain":
        recipe = replace(recipe, positive=job.positive, normaliser=job.normaliser)
    frozen = job.batch_norm == "frozen" or (job.batch_norm == "auto" and pretrained and _has_folded_norm(trunk))
    augmented = job.freeze == "none"
    images = ImageSpec(_index_shards(job), classes, size, prepare.interpolation, augmented, job.train_split, job.val_share, job.seed)
    return CheckedTraining(job, recipe, images, weights_digest(trunk.state_dict()), frozen)


def initial_network(checked: CheckedTraining) -> Headed:
    """The network as the training starts with it: the same on every worker."""
    network, _ = _build_network(checked.job, _settings(checked.job)[0])
    trunk, _ = strides.trunk(network, checked.recipe.size, checked.job.output_stride)
    if weights_digest(trunk.state_dict()) != checked.start:
        raise Refusal(f"the weights of {checked.job.backbone} changed while the training was being started; start it again")
    with torch.no_grad():
        channels = trunk(torch.zeros(1, 3, *checked.recipe.size)).shape[1]
    return checkpoint.headed(trunk, channels, checked.recipe, checked.job.seed).float().to(memory_format=torch.channels_last)


def _settings(job: Training) -> tuple[dict, dict]:
    """Arguments of the network's constructor, and those of its preprocessing."""
    settings = {key: typed(value) for key, value in (key_value(item, "--backbone-args") for item in job.backbone_args)}
    return settings, {key: settings.pop(key) for key in SETTINGS if key in settings}


def _build_network(job: Training, settings: dict) -> tuple[nn.Module, bool]:
    """The timm network, and whether its weights were learned before."""
    arguments = dict(settings)
    pretrained = bool(arguments.pop("pretrained", True)) and job.weights is None
    network = timm_models.build(job.backbone.removeprefix("timm/"), arguments, pretrained=pretrained, size=None, seed=job.seed)
    if job.weights is not None and job.weights.startswith("train/"):
        state = checkpoint.read(job.weights.removeprefix("train/"))[1]
        trunk = {name.removeprefix("trunk."): value for name, value in state.items() if name.startswith("trunk.")}
        install_weights(network, {**network.state_dict(), **trunk}, job.weights)
    elif job.weights is not None:
        install_weights(network, read_weights(job.weights), job.weights)
    return network, pretrained or job.weights is not None


def _has_folded_norm(network: nn.Module) -> bool:
    """Whether BatchNorm was folded into the convolutions: it then has the statistics of a fresh network, and must not learn new ones."""
    means = [module.running_mean for module in network.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    return bool(means) and not any(mean.any() for mean in means)


def _index_shards(job: Training) -> tuple[tuple[sources.Shard, sources.Index, bool], ...]:
    """Every shard with its index, and whether all of it is for validation.

    Raises:
        Refusal: where no image carries a label.
    """
    shards = [(shard, False) for shard in sources.list_shards(job.source)]
    shards += [(shard, True) for shard in sources.list_shards(job.val_source)] if job.val_source else []
    indexes = tuple((shard, sources.index(shard), val) for shard, val in shards)
    problems = [problem for _, index, _ in indexes for problem in index.problems]
    for problem in problems:
        log.warning("%s: %s: %s", problem.shard, problem.error, problem.message)
    splits = {split for _, index, val in indexes if not val for split in index.splits}
    if useless := sorted(split for split in splits if use_of(split, job.train_split) not in SPLITS):
        log.warning(
            "images of the split %s are used for nothing: they are for none of %s; see --train-split", ", ".join(useless), ", ".join(SPLITS)
        )
    if not any(index.labelled for _, index, val in indexes if not val):
        hint = f": {problems[0].message}" if problems else ""
        raise Refusal(f"no image in {' '.join(job.source)} carries a label{hint}")
    return indexes
