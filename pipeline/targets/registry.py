"""The registry of targets. A target gives one or more directions d in logit space; the explained scalar is <d, y>.

B images, C classes, P phrases, T directions
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from pipeline.families import Parameter, parameters, register

Phrase = tuple[str, tuple[str, ...]]  # a text and the templates it is filled into; without any, the network's own
Join = Literal["one", "max_pre", "mean_post", "sum_unit"]


@dataclass(frozen=True)
class Predictions:
    """The predictions of a batch: logits [B C], labels [B] (-1 where there is none); `class_weights` gives the last linear's rows.

    `phrases` are the texts whose logits follow those of the classes, each with its templates. They are no part of `logits`.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    class_weights: Callable[[], torch.Tensor | None] = lambda: None
    phrases: Sequence[Phrase] = ()

    @property
    def predicted(self) -> torch.Tensor:
        """The class with the highest logit [B]; -1 where there are no classes."""
        return self.logits.argmax(1) if self.logits.shape[1] else torch.full_like(self.labels, -1)

    @property
    def main(self) -> torch.Tensor:
        """The label, or the predicted class where there is none."""
        return torch.where(self.labels >= 0, self.labels, self.predicted)


@dataclass(frozen=True)
class Directions:
    """Directions [B T C], the class each map explains [B] (-1: none), and the classes it is told from [B R].

    Directions of a target that names phrases are [B T C + P]. `by_class` is False where no class is meant, so that none can be missing.
    """

    directions: torch.Tensor
    class_id: torch.Tensor
    reference_ids: torch.Tensor
    gamma: float | None = None
    join: Join = "one"
    by_class: bool = True

    @property
    def missing(self) -> torch.Tensor:
        """Whether an image lacks the class it is to be explained for [B]."""
        return (self.class_id < 0) & self.by_class


@dataclass(frozen=True)
class Target:
    """A named function of the network's answers; `takes_argument` says how the part after the colon is written, if there is one.

    Where the argument is a file, `reads` reads it, once. A target that asks for several maps of an image gives each a suffix.
    `texts` gives the phrases that the argument and the settings name, where they name any. `fit` makes of them what the target explains
    on a network, given the rows of its classifier [C D]. The maps of a `compared` target are of the label, as many as its class asks for,
    and there to be compared with each other. A target that needs a label has nothing to explain for an image without one.
    """

    name: str
    explain: Callable[..., Directions | dict[str, Directions]]
    takes_argument: str | None
    version: int
    reads: Callable[[str], Any] | None = None
    texts: Callable[[Any, Mapping], list[str]] | None = None
    fit: Callable[[Any, Mapping, torch.Tensor | None], Any] | None = None
    compared: bool = False
    needs_label: bool = False

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        return parameters(self.explain)


TARGETS: dict[str, Target] = {}


def target(
    name: str,
    *,
    takes_argument: str | None = None,
    version: int = 1,
    reads: Callable[[str], Any] | None = None,
    texts: Callable[[Any, Mapping], list[str]] | None = None,
    fit: Callable[[Any, Mapping, torch.Tensor | None], Any] | None = None,
    compared: bool = False,
    needs_label: bool = False,
):
    """Add a function to the targets; the arguments are the fields of `Target`, and a compared target needs a label."""

    def add(function: Callable) -> Callable:
        register(TARGETS, name, Target(name, function, takes_argument, version, reads, texts, fit, compared, compared or needs_label))
        return function

    return add


def one_hot_directions(class_id: torch.Tensor, logits: torch.Tensor) -> Directions:
    directions = F.one_hot(class_id.clamp(min=0), logits.shape[1]).to(logits.dtype)
    return Directions(directions[:, None], class_id, class_id.new_empty(len(class_id), 0))
