"""A batch of images: one forward, all targets, and the values computed from both, each of them once.

B images, K channels, C classes, P phrases, T directions, h w cells, H W pixels
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F

from pipeline.backbones import Backbone
from pipeline.engine.forward import Forward
from pipeline.spec.grammar import Choice
from pipeline.targets import TARGETS
from pipeline.targets.registry import Directions, Predictions

# Kinds of passes: rows through the whole network and back, and through the head alone and back.
PASSES = ("forwards", "backwards", "heads", "head_backwards")


@dataclass(frozen=True)
class Batch:
    """The input of every family of methods.

    Attributes:
        forward: the activations and logits of the one pass that all methods share.
        targets: the directions to explain, an entry per target of the batch.
        pixels: [B 3 H W], uint8 as decoded, or floats in units of [0, 1] where the images have been changed.
        seeds: the seeds of a method's noise by its name, one per image, whatever batch the image is in.
        activation: `softmax` or `sigmoid`, from logits to probabilities.
        precision: the arithmetic of further passes.
        seed: the run's seed, for noise that no image decides.
        names: the targets' names in the tables.
        tally: rows passed so far, by payer (a method or a metric) and kind of pass.
    """

    forward: Forward
    targets: tuple[Directions, ...]
    pixels: torch.Tensor
    seeds: Callable[[str], list[int]]
    activation: str = "softmax"
    precision: str = "fp32"
    seed: int = 0
    names: tuple[str, ...] = ()
    tally: Counter = field(default_factory=Counter, repr=False)
    _cache: dict = field(default_factory=dict, repr=False)

    @property
    def backbone(self) -> Backbone:
        return self.forward.backbone

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the network's input."""
        height, width = self.pixels.shape[2:]
        return height, width

    def probabilities(self, y: torch.Tensor) -> torch.Tensor:
        """Probabilities of logits [... C + P].

        Those of the classes know nothing of the phrases; a phrase's own is that of one more class, whatever other phrases there are.
        Without classes there is no probability, and the logit stands in for it.
        """
        C = self.backbone.num_classes if self.backbone.phrases else y.shape[-1]
        if not C:
            return y
        if self.activation == "sigmoid":
            return y.sigmoid()
        classes, phrases = y[..., :C], y[..., C:]
        p = classes.softmax(-1)
        return torch.cat([p, (phrases - classes.logsumexp(-1, keepdim=True)).sigmoid()], -1) if phrases.shape[-1] else p

    def cached(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The value of `compute`, computed once for `key` and shared by all methods and metrics of the batch."""
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]

    def gradients(self, target: int, payer: str = "") -> list[torch.Tensor]:
        """dA [B K h w] for each direction of a target: one head-backward each, for all methods together."""
        directions = list(self.targets[target].directions.unbind(1))

        def compute() -> list[torch.Tensor]:
            if self.forward.graph is not None:
                self.tally[payer, "head_backwards"] += len(directions) * len(self.pixels)
            return self.forward.gradients(directions)

        return self.cached(("gradients", target), compute)

    def weights(self, target: int) -> list[torch.Tensor]:
        """The classifier's weights [B K] for each direction of a target, where the head is pooling + linear."""
        W = self.backbone.pooled_linear
        assert W is not None, "methods that take weights fit no other head"
        return [d @ W for d in self.targets[target].directions.unbind(1)]

    def at(self, positions: Sequence[int]) -> "Batch":
        """Some of the images as a batch of their own, by the same pass."""
        index, seeds = list(positions), self.seeds
        targets = [
            replace(t, directions=t.directions[index], class_id=t.class_id[index], reference_ids=t.reference_ids[index])
            for t in self.targets
        ]

        def own_seeds(name: str) -> list[int]:
            of_all = seeds(name)
            return [of_all[i] for i in index]

        forward = self.forward.at(index, self.precision)
        return replace(self, forward=forward, targets=tuple(targets), pixels=self.pixels[index], seeds=own_seeds, _cache={})

    def noise(self, name: str) -> torch.Tensor:
        """Uniform noise in [0, 1) [B h w] for the method `name`."""
        cells = self.forward.A.shape[2:]
        draws = [torch.rand(cells, generator=torch.Generator().manual_seed(seed)) for seed in self.seeds(name)]
        return torch.stack(draws).to(self.forward.A.device)


def pixels_of(batch: Batch) -> torch.Tensor:
    """The images [B 3 H W] in units of [0, 1], the space in which masks multiply."""
    pixels = batch.pixels
    return batch.cached("pixels", lambda: pixels if pixels.is_floating_point() else batch.backbone.prepare.pixels(pixels))


def explain_targets(target: Choice, predictions: Predictions) -> dict[str, Directions]:
    """The directions to explain by their names in the tables: the target's own, or several whose names begin with it.

    Directions [B T C + P] are over the logits of classes and phrases.
    """
    argument = {"argument": target.argument} if target.argument is not None else {}
    directions = TARGETS[target.name].explain(predictions, **argument, **target.args)
    parts = directions.items() if isinstance(directions, dict) else [("", directions)]
    return {target.alias + suffix: _over_all_logits(part, predictions) for suffix, part in parts}


def _over_all_logits(explained: Directions, predictions: Predictions) -> Directions:
    missing = predictions.logits.shape[1] + len(predictions.phrases) - explained.directions.shape[2]
    return replace(explained, directions=F.pad(explained.directions, (0, missing))) if missing else explained


def target_names(target: Choice, batch: Batch) -> list[str]:
    """The names in the tables of a target or of its parts."""
    return [name for name in batch.names if name == target.alias or name.startswith(f"{target.alias}#")]
