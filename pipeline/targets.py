"""What is explained: one or more directions d in logit space, the explained scalar being <d, y>.

B images, C classes, P phrases, T directions
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from pipeline.classes.attributes import Attributes, Differing, differing
from pipeline.classes.attributes import read as read_attributes
from pipeline.classes.pairs import Pair, partners
from pipeline.classes.pairs import read as read_pairs
from pipeline.families import Parameter, parameters, register
from pipeline.refusal import Refusal, choose

Phrase = tuple[str, tuple[str, ...]]  # a text and the templates it is filled into; without any, the network's own
Join = Literal["one", "max_pre", "mean_post", "sum_unit"]


@dataclass(frozen=True)
class Answers:
    """What the network says of a batch: logits [B C], labels [B] (-1 where there is none); `class_weights` gives the last linear's rows.

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
class Explained:
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
    and there to be compared with each other.
    """

    name: str
    explain: Callable[..., Explained | dict[str, Explained]]
    takes_argument: str | None
    version: int
    reads: Callable[[str], Any] | None = None
    texts: Callable[[Any, Mapping], list[str]] | None = None
    fit: Callable[[Any, Mapping, torch.Tensor | None], Any] | None = None
    compared: bool = False

    @property
    def needs_label(self) -> bool:
        return self.compared or self.name == "label"

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
):
    """Add a function to the targets."""

    def add(function: Callable) -> Callable:
        register(TARGETS, name, Target(name, function, takes_argument, version, reads, texts, fit, compared))
        return function

    return add


def _plain(class_id: torch.Tensor, logits: torch.Tensor) -> Explained:
    directions = F.one_hot(class_id.clamp(min=0), logits.shape[1]).to(logits.dtype)
    return Explained(directions[:, None], class_id, class_id.new_empty(len(class_id), 0))


@target("label")
def label(answers: Answers) -> Explained:
    """The ground truth."""
    return _plain(answers.labels, answers.logits)


@target("predicted")
def predicted(answers: Answers) -> Explained:
    """The class with the highest logit."""
    return _plain(answers.predicted, answers.logits)


@target("second")
def second(answers: Answers) -> Explained:
    """The class with the second highest logit (Opti-CAM table A9)."""
    return _plain(_ranked(answers.logits, answers.predicted)[:, 0], answers.logits)


@target("least")
def least(answers: Answers) -> Explained:
    """The class with the lowest logit (Opti-CAM table A9)."""
    return _plain(answers.logits.argmin(1), answers.logits)


@target("class", takes_argument="<id>")
def one_class(answers: Answers, argument: str) -> Explained:
    """The same class for every image."""
    classes = answers.logits.shape[1]
    if not argument.strip().isdigit() or int(argument) >= classes:
        raise Refusal(f"target class:{argument}: the network's classes are 0 to {classes - 1}")
    return _plain(torch.full_like(answers.labels, int(argument)), answers.logits)


@target("class_set", takes_argument="<name>")
def class_set(answers: Answers, argument: str, *, sets: tuple[str, ...] = (), aggregation: Literal["sum", "sum_unit"] = "sum") -> Explained:
    """Several classes together: the sum of their one-hots (CALM section 4.1.3, subset attribution). The map's class stays the image's own.

    The argument is the name of one of `sets` (each written `name=1 2 3`), class numbers joined by +, `all` for every class, or `own` for
    the smallest set that holds the image's class; a class that no set holds stands alone. aggregation=sum_unit explains every member by
    itself, and adds the maps up after each was brought to [0, 1]: what the paper sets against it as CAM + Y (section 5.4).
    """
    count, class_id = answers.logits.shape[1], answers.main
    known = {name: [int(c) for c in members.split()] for name, _, members in (each.rpartition("=") for each in sets)}
    if argument == "own":
        held = {c: min((m for m in known.values() if c in m), key=len, default=[c]) for c in class_id.tolist()}
        members = [held[c] for c in class_id.tolist()]
    else:
        members = [_members(argument, known, count)] * len(class_id)
    wrong = next((c for each in members for c in each if not 0 <= c < count), None)
    if wrong is not None:
        raise Refusal(f"target class_set:{argument}: class {wrong} is none of the network's, 0 to {count - 1}")
    nobody = class_id.new_empty(len(class_id), 0)
    if aggregation == "sum_unit":  # a smaller set is filled up with directions of zeros, whose flat maps add nothing
        directions = answers.logits.new_zeros(len(members), max(map(len, members)), count)
        for row, each in zip(directions, members, strict=True):
            row[range(len(each)), each] = 1
        return Explained(directions, class_id, nobody, join="sum_unit")
    directions = torch.stack([F.one_hot(torch.tensor(each), count).sum(0) for each in members]).to(answers.logits)
    return Explained(directions[:, None], class_id, nobody)


def _members(argument: str, known: Mapping[str, list[int]], count: int) -> list[int]:
    """The classes of a set by its name, or as they are written."""
    if argument == "all" and argument not in known:
        return list(range(count))
    if argument not in known and all(part.strip().isdigit() for part in argument.split("+")):
        return sorted({int(part) for part in argument.split("+")})
    if not known:
        raise Refusal(f"target class_set:{argument}: the sets are not known; give --class-sets FILE, class numbers as 3+7, all or own")
    return known[choose(argument, [*known, "all", "own"], "class set")]


def _ranked(scores: torch.Tensor, class_id: torch.Tensor) -> torch.Tensor:
    """Classes other than `class_id` by falling score [B C-1]; ties go to the lower class."""
    others = scores.scatter(1, class_id[:, None], -torch.inf)
    return others.sort(dim=1, descending=True, stable=True).indices[:, :-1]


def _similar(answers: Answers, class_id: torch.Tensor, rule: str) -> torch.Tensor:
    """All other classes, most similar first, by one of the three rules in use for Finer-CAM."""
    if rule == "logit_rank":
        return _ranked(answers.logits, class_id)
    if rule == "logit_distance":
        return _ranked(-(answers.logits - answers.logits.gather(1, class_id[:, None])).abs(), class_id)
    weights = answers.class_weights()
    if weights is None:
        raise Refusal("reference=weight_cosine compares the rows of a last linear layer, and this network has none; use logit_rank")
    return by_weights(weights, class_id)


def by_weights(weights: torch.Tensor, class_id: torch.Tensor) -> torch.Tensor:
    """The classes most similar to each of `class_id` [B], by the cosines of a classifier's rows [C D], most similar first [B C-1]."""
    rows = F.normalize(weights.float(), dim=1)
    return _ranked(rows[class_id] @ rows.T, class_id)


def rivals(answers: Answers) -> torch.Tensor:
    """What the scored class is told from in Finer-CAM's relative drop [B 2]: by logit, and by weights; -1 where there is no such class."""
    absent = torch.full_like(answers.labels, -1)
    if answers.logits.shape[1] < 2:
        return torch.stack([absent, absent], 1)
    close = absent if answers.class_weights() is None else _similar(answers, answers.main, "weight_cosine")[:, 0]
    return torch.stack([_similar(answers, answers.main, "logit_rank")[:, 0], close], 1)


@target("finer")
def finer(
    answers: Answers,
    *,
    gamma: float = 0.6,
    T: int = 3,
    rank: int = 1,
    reference: Literal["logit_rank", "logit_distance", "weight_cosine"] = "logit_rank",
    weighting: Literal["uniform", "prob_detached", "prob"] = "uniform",
    aggregation: Literal["mean_pre", "max_pre", "mean_post"] = "mean_pre",
) -> Explained:
    """What tells the class from its T most similar ones: y_c - gamma y_d, averaged over d before the rectifier (Finer-CAM eq. 5 and 8).

    `rank` leaves out the classes that are more similar: with T=1, 1, 2 and 3 are the second, third and fourth prediction of an image whose
    class is the first (its table of references; E40).
    `prob` lets the gradient flow through the weights as the released code does; it is still one direction, the gradient of the
    weighted scalar with respect to the logits.
    """
    logits, class_id = answers.logits, answers.main
    if not 1 <= T < logits.shape[1]:
        raise Refusal(f"finer.T is {T}; the network has {logits.shape[1]} classes, so it must be 1 to {logits.shape[1] - 1}")
    if not 1 <= rank <= logits.shape[1] - T:
        raise Refusal(f"finer.rank is {rank}; with {T} references among {logits.shape[1]} classes it must be 1 to {logits.shape[1] - T}")
    if aggregation != "mean_pre" and weighting != "uniform":
        raise Refusal(f"finer.aggregation={aggregation} joins maps without weights; use weighting=uniform")
    references = _similar(answers, class_id, reference)[:, rank - 1 : rank - 1 + T]
    own = F.one_hot(class_id, logits.shape[1]).to(logits.dtype)[:, None]
    apart = own - gamma * F.one_hot(references, logits.shape[1]).to(logits.dtype)
    if aggregation != "mean_pre":
        return Explained(apart, class_id, references, gamma, aggregation)
    if weighting == "uniform":
        directions = apart.mean(1, keepdim=True)
    else:
        directions = _weighted(logits, apart, references, detached=weighting == "prob_detached")
    return Explained(directions, class_id, references, gamma)


def _weighted(logits: torch.Tensor, apart: torch.Tensor, references: torch.Tensor, detached: bool) -> torch.Tensor:
    """Gradient with respect to the logits of sum_d p_d <apart_d, y> / (sum_d p_d + 1e-9) [B 1 C]."""
    with torch.enable_grad():
        y = logits.detach().clone().requires_grad_()
        p = y.softmax(1).gather(1, references)
        weights = p / (p.sum(1, keepdim=True) + 1e-9)
        scalar = ((weights.detach() if detached else weights) * torch.einsum("btc,bc->bt", apart, y)).sum()
        return torch.autograd.grad(scalar, y)[0][:, None]


@target("reverse")
def reverse(answers: Answers) -> Explained:
    """Traits of the most similar class that the image shows: y_d - y_c (Finer-CAM supplement C.5)."""
    class_id = answers.main
    rival = _ranked(answers.logits, class_id)[:, :1]
    classes = answers.logits.shape[1]
    directions = F.one_hot(rival, classes) - F.one_hot(class_id, classes)[:, None]
    return Explained(directions.to(answers.logits.dtype), class_id, rival, 1.0)


@target("pairs", takes_argument="<file>", reads=read_pairs, compared=True)
def pairs(answers: Answers, argument: Sequence[Pair]) -> dict[str, Explained]:
    """What tells the label from each class it makes a pair with: for one after the other, the other's own map and that of y_A - y_B.

    `#own` is the label's own map, `#other_1` the map of the first partner, `#finer_1` the difference. An image has as many as its class
    has partners; for the others, and where its class is in no pair, class_id is -1.
    """
    classes, found = answers.logits.shape[1], partners(argument)
    if max(found) >= classes:
        raise Refusal(f"a pair has class {max(found)}; the network's classes are 0 to {classes - 1}")
    table = answers.labels.new_full((classes + 1, max(map(len, found.values()))), -1)  # the last row is that of no label
    for own, others in found.items():
        table[own, : len(others)] = table.new_tensor([other for other, _ in others])
    rivals = table[answers.labels]
    explained = {"#own": _plain(torch.where(rivals[:, 0] >= 0, answers.labels, -1), answers.logits)}
    for k, rival in enumerate(rivals.unbind(1), 1):
        explained[f"#other_{k}"] = other = _plain(rival, answers.logits)
        own = _plain(torch.where(rival >= 0, answers.labels, -1), answers.logits)
        explained[f"#finer_{k}"] = Explained(own.directions - other.directions, own.class_id, rival[:, None], 1.0)
    return explained


@target("none")
def none(answers: Answers) -> Explained:
    """No class: what class-free methods are computed for."""
    nobody = torch.full_like(answers.labels, -1)
    directions = answers.logits.new_zeros(len(nobody), 0, answers.logits.shape[1])
    return Explained(directions, nobody, nobody.new_empty(len(nobody), 0), by_class=False)


def _phrased(answers: Answers, weights: Mapping[Phrase, float], gamma: float | None = None) -> Explained:
    """The sum of phrases' logits with these weights."""
    direction = answers.logits.new_zeros(answers.logits.shape[1] + len(answers.phrases))
    for phrase, weight in weights.items():
        direction[answers.logits.shape[1] + answers.phrases.index(phrase)] += weight
    nobody = torch.full_like(answers.labels, -1)
    return Explained(direction.expand(len(nobody), 1, -1), nobody, nobody.new_empty(len(nobody), 0), gamma, by_class=False)


@target("text", takes_argument="<phrase>", texts=lambda argument, settings: [argument.strip()])
def text(answers: Answers, argument: str, *, templates: tuple[str, ...] = ()) -> Explained:
    """A phrase: logit scale x cosine of the image's and the phrase's embedding (Finer-CAM supplement C.2), one more logit than the classes'.

    Without templates of its own the phrase is filled into those of the classes.
    """
    return _phrased(answers, {(argument.strip(), templates): 1.0})


def _pair(argument: str) -> list[str]:
    phrases = [phrase.strip() for phrase in argument.split("|")]
    if len(phrases) != 2 or not all(phrases) or phrases[0] == phrases[1]:
        raise Refusal(f"target text_contrast:{argument} is not two different phrases; write text_contrast:a red wing|a bird")
    return phrases


@target("text_contrast", takes_argument="<phrase>|<base phrase>", texts=lambda argument, settings: _pair(argument))
def text_contrast(answers: Answers, argument: str, *, gamma: float = 0.6, templates: tuple[str, ...] = ()) -> Explained:
    """What tells a phrase from a base phrase: y_phrase - gamma y_base (Finer-CAM eq. 5 on the cosines of supplement C.2)."""
    phrase, base = _pair(argument)
    return _phrased(answers, {(phrase, templates): 1.0, (base, templates): -gamma}, gamma)


def _differing(argument: Attributes, settings: Mapping, weights: torch.Tensor | None) -> Differing:
    """What tells each class from the one that is nearest to it by the classifier's rows."""
    classes, described = 0 if weights is None else len(weights), len(argument.values)
    if classes != described or classes < 2:
        raise Refusal(f"{argument.url} describes {described} classes, the network has {classes}; both must have the same, two or more")
    top, most = settings["top"], len(argument.names)
    if not 1 <= top <= most:
        raise Refusal(f"attributes.top is {top}; {argument.url} has {most} attributes, so it must be 1 to {most}")
    rivals = by_weights(weights, torch.arange(classes, device=weights.device))[:, 0].tolist()
    return differing(argument, rivals, top)


@target(
    "attributes",
    takes_argument="<file>",
    reads=read_attributes,
    texts=lambda argument, settings: [settings["base"], *argument.texts],
    fit=_differing,
    compared=True,
)
def attributes(
    answers: Answers, argument: Differing, *, base: str = "bird", gamma: float = 0.6, top: int = 3, templates: tuple[str, ...] = ()
) -> dict[str, Explained]:
    """Does the map that tells the label's class from its nearest rival show what tells them apart? (Finer-CAM supplement A.2)

    The rival d of a class c is the one whose classifier row is nearest to c's by cosine; its attributes are the `top` with the largest
    value_c - value_d above 0. `#label` is y_c and `#finer` y_c - gamma y_d; `#attribute_1` ... are y_attribute - gamma y_base of the
    attributes' texts, the largest difference first. For an image whose class has fewer, class_id is -1.
    """
    labels, classes = answers.labels, answers.logits.shape[1]
    own = _plain(labels, answers.logits)
    rivals = labels.new_tensor([*(apart.rival for apart in argument.classes), -1])[labels]  # the last is that of no label
    finer = own.directions - gamma * _plain(rivals, answers.logits).directions
    explained = {"#label": own, "#finer": Explained(finer, labels, rivals[:, None], gamma)}
    for k in range(top):
        class_id, directions = torch.full_like(labels, -1), answers.logits.new_zeros(len(labels), 1, classes + len(answers.phrases))
        for i, c in enumerate(labels.tolist()):
            for text, _ in argument.classes[c].attributes[k : k + 1] if c >= 0 else ():
                class_id[i] = c
                directions[i, 0, classes + answers.phrases.index((text, templates))] += 1
                directions[i, 0, classes + answers.phrases.index((base, templates))] -= gamma
        explained[f"#attribute_{k + 1}"] = Explained(directions, class_id, labels.new_empty(len(labels), 0), gamma)
    return explained
