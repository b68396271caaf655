"""A frozen network, cut into trunk and head.

B images, K channels, h w cells, C classes, D features, H W pixels.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from pipeline.backbones.cutting.cut import Cut
from pipeline.backbones.cutting.linear_head import feature_to_logits
from pipeline.backbones.cutting.own_cut import OwnCut, TrunkAndHead
from pipeline.backbones.preprocess import Preprocessing
from pipeline.backbones.seen import Part
from pipeline.maps.render import over_part
from pipeline.refusal import Refusal
from pipeline.targets.registry import Phrase


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network, cut at one layer.

    Attributes:
        name: as `load` was called with it.
        layer: module path of the value that A is.
        num_classes: C; 0 where the network has no classifier, and its logits are its feature, or those of phrases alone.
        channels: K.
        grid: (h, w).
        image_size: (H, W) in pixels.
        prepare: uint8 [B, 3, H, W] -> the input of `trunk`.
        pooled_linear: W [C, K] where the logits are W mean(A) + constant, so that d<d, y>/dA = (d @ W) / (h * w) in every cell;
            None where they are not.
        feature_width: D.
        identity: hash of everything that decides the values: architecture, its arguments, the weights' tensors, layer, prepare.
        cut: both halves of the network.
        network: the whole network; its modules are those of the cut.
        phrases: texts, each with its templates, whose logits follow those of the classes; only open_clip's networks have any.
        text: logit scale x unit text embeddings [C + P, E] where classes or phrases are texts, else None; of a probe's classes, its weights.
        origin: description of a network without a classifier, key by key, which a linear probe on its feature remembers.
        branches: A -> log g [B, C, h, w] and h [B, 1, h, w] of a CALM network cut behind its trunk; None of any other.
        classes: the names of the classes, where the network brings them.
        seen: top, left, bottom, right in pixels of the part of the image that the network sees; None where it sees all of it.
    """

    name: str
    layer: str
    num_classes: int
    channels: int
    grid: tuple[int, int]
    image_size: tuple[int, int]
    prepare: Preprocessing
    pooled_linear: Tensor | None
    feature_width: int
    identity: str
    cut: Cut | OwnCut
    network: nn.Module | TrunkAndHead
    phrases: tuple[Phrase, ...] = ()
    text: Tensor | None = None
    origin: Mapping = field(default_factory=dict)
    branches: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    classes: tuple[str, ...] = ()
    seen: Part | None = None

    @property
    def device(self) -> torch.device:
        """The device of the network's weights; the CPU where it has none."""
        return next((value.device for value in self.cut.state_dict().values()), torch.device("cpu"))

    @torch.no_grad()
    def trunk(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x [B, 3, H, W] -> A [B, K, h, w] and rest, a tuple of tensors [B, ...], all of them free of any gradient.

        rest may be indexed, repeated and concatenated along B together with A.
        """
        return self.cut.trunk(self._sized(x))

    def head(self, A: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        """A [B, K, h, w], rest -> logits [B, C + P], those of classes and phrases; differentiable in A."""
        return self.cut.head(A, rest)

    def readout(self, A: Tensor, rest: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """A [B, K, h, w], rest -> logits [B, C] and feature [B, D], in one pass.

        The feature is the input of the linear layer that makes the logits. Where the logits are a sum or mean of several (the two heads
        of a distilled DeiT), it is their inputs side by side, so that the logits are affine in it; where they come from none, it is
        the logits. Of open_clip's networks it is the image's embedding, not of unit length. An object with its own trunk and head may
        bring a readout; else the feature is A's mean over the grid.
        """
        return self.cut.readout(A, rest)

    def logits(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] -> logits [B, C] in one pass; differentiable in x."""
        return self.cut.head(*self.cut.trunk(self._sized(x)))

    def class_weights(self) -> Tensor | None:
        """Rows of the affine map from feature to logits [C, D], one per class; None where the logits are not made from the feature.

        Where the classes are texts, their embeddings; a probe's beside phrases are its weights.
        """
        return self._class_weights if self.text is None else self.text[: self.num_classes]

    @cached_property
    def _class_weights(self) -> Tensor | None:
        pixels = torch.zeros(1, 3, *self.image_size, dtype=torch.uint8, device=self.device)
        return feature_to_logits(self.cut.parts, *self.trunk(self.prepare(pixels)))

    def drawing(self, render: str) -> str:
        """The way from a map to an image: a map of cells lies over the part of the image that the network sees."""
        return over_part(render, self.seen, self.image_size) if self.seen and render == "bilinear" else render

    def to(self, device: torch.device | str) -> "Backbone":
        """The same backbone on this device; its modules move, they are not copied."""
        self.cut.to(device)
        tensors = {name: value.to(device) for name in ("pooled_linear", "text") if (value := getattr(self, name)) is not None}
        return dataclasses.replace(self, **tensors)

    def _sized(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.image_size:
            raise Refusal(f"images of {tuple(x.shape[2:])} pixels reach a backbone cut for {self.image_size}; load it with that image size")
        return x.contiguous(memory_format=torch.channels_last)
