"""Phrases that an open_clip network reads (Finer-CAM supplement C.2)."""

from collections.abc import Mapping

import torch

from pipeline.refusal import Refusal
from pipeline.targets.registry import Directions, Phrase, Predictions, target


def _phrased(answers: Predictions, weights: Mapping[Phrase, float], gamma: float | None = None) -> Directions:
    """The sum of phrases' logits with these weights."""
    direction = answers.logits.new_zeros(answers.logits.shape[1] + len(answers.phrases))
    for phrase, weight in weights.items():
        direction[answers.logits.shape[1] + answers.phrases.index(phrase)] += weight
    nobody = torch.full_like(answers.labels, -1)
    return Directions(direction.expand(len(nobody), 1, -1), nobody, nobody.new_empty(len(nobody), 0), gamma, by_class=False)


@target("text", takes_argument="<phrase>", texts=lambda argument, settings: [argument.strip()])
def text(answers: Predictions, argument: str, *, templates: tuple[str, ...] = ()) -> Directions:
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
def text_contrast(answers: Predictions, argument: str, *, gamma: float = 0.6, templates: tuple[str, ...] = ()) -> Directions:
    """A phrase against a base phrase: y_phrase - gamma y_base (Finer-CAM eq. 5 on the cosines of supplement C.2)."""
    phrase, base = _pair(argument)
    return _phrased(answers, {(phrase, templates): 1.0, (base, templates): -gamma}, gamma)
