"""A batch under study: one look at it, every target asked of it, and what is drawn from both. What is dear is computed once.

B images, K channels, C classes, P phrases, T directions, h w cells, H W pixels
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

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
    """What the engine's families work on.

    Attributes:
        look: the batch as the network saw it, once.
        targets: what is explained, one entry per target asked of the batch.
        pixels: [B 3 H W], uint8 as decoded, or floats in units of [0, 1] where the images have been changed.
        seeds: the seeds of a method's noise by its name, one per image, whatever batch the image is in.
        activation: `softmax` or `sigmoid`, what makes probabilities of logits.
        precision: the arithmetic further passes run in.
        seed: the run's seed, for noise that no image decides.
        names: what the tables call each of the targets.
        tally: rows passed so far, by who asked for them and the kind of pass.
    """

    look: Forward
    targets: tuple[Directions, ...]
    pixels: torch.Tensor
    seeds: Callable[[str], list[int]]
    activation: str = "softmax"
    precision: str = "fp32"
    seed: int = 0
    names: tuple[str, ...] = ()
    tally: Counter = field(default_factory=Counter, repr=False)
    _kept: dict = field(default_factory=dict, repr=False)

    @property
    def backbone(self) -> Backbone:
        return self.look.backbone

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the network's input."""
        return tuple(self.pixels.shape[2:])

    def probabilities(self, y: torch.Tensor) -> torch.Tensor:
        """Probabilities of logits [... C + P].

        Those of the classes know nothing of the phrases; a phrase's own is what it would have as one more class, whatever other phrases
        are asked. Without classes there is no probability, and the logit stands in for it.
        """
        C = self.backbone.num_classes if self.backbone.phrases else y.shape[-1]
        if not C:
            return y
        if self.activation == "sigmoid":
            return y.sigmoid()
        classes, phrases = y[..., :C], y[..., C:]
        p = classes.softmax(-1)
        return torch.cat([p, (phrases - classes.logsumexp(-1, keepdim=True)).sigmoid()], -1) if phrases.shape[-1] else p

    def once(self, key, compute: Callable):
        """What `compute` returns, computed the first time `key` is asked for and shared by every method of the batch."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def gradients(self, target: int, payer: str = "") -> list[torch.Tensor]:
        """dA [B K h w] for each direction of a target: one head-backward each, for all methods together."""
        directions = list(self.targets[target].directions.unbind(1))

        def taken() -> list[torch.Tensor]:
            if self.look.graph is not None:
                self.tally[payer, "head_backwards"] += len(directions) * len(self.pixels)
            return self.look.gradients(directions)

        return self.once(("gradients", target), taken)

    def weights(self, target: int) -> list[torch.Tensor]:
        """The classifier's weights [B K] for each direction of a target, where the head is pooling + linear."""
        return [d @ self.backbone.pooled_linear for d in self.targets[target].directions.unbind(1)]

    def noise(self, name: str) -> torch.Tensor:
        """Uniform noise in [0, 1) [B h w] for the method `name`."""
        cells = self.look.A.shape[2:]
        draws = [torch.rand(cells, generator=torch.Generator().manual_seed(seed)) for seed in self.seeds(name)]
        return torch.stack(draws).to(self.look.A.device)


def pixels_of(scene: Batch) -> torch.Tensor:
    """The batch [B 3 H W] in units of [0, 1], the space in which masks multiply."""
    shown = scene.pixels
    return scene.once("pixels", lambda: shown if shown.is_floating_point() else scene.backbone.prepare.pixels(shown))


def explain_targets(target: Choice, answers: Predictions) -> dict[str, Directions]:
    """What is explained, by its name in the tables: a target's own, or several that begin with it.

    Directions [B T C + P] are over the logits of classes and phrases.
    """
    argument = {"argument": target.argument} if target.argument is not None else {}
    found = TARGETS[target.name].explain(answers, **argument, **target.args)
    parts = found.items() if isinstance(found, dict) else [("", found)]
    return {target.alias + part: _over_all(each, answers) for part, each in parts}


def _over_all(explained: Directions, answers: Predictions) -> Directions:
    beside = answers.logits.shape[1] + len(answers.phrases) - explained.directions.shape[2]
    return replace(explained, directions=F.pad(explained.directions, (0, beside))) if beside else explained


def target_names(target: Choice, scene: Batch) -> list[str]:
    """What the tables call that which a target explains: itself, or its parts."""
    return [name for name in scene.names if name == target.alias or name.startswith(f"{target.alias}#")]
