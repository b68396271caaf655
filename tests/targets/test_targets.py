"""Targets against directions written out by hand."""

import numpy as np
import pytest
import torch

from pipeline.classes.attributes import Apart, Attributes, Differing
from pipeline.classes.pairs import Pair
from pipeline.engine.batch import explain_targets
from pipeline.refusal import Refusal
from pipeline.spec.grammar import parse
from pipeline.targets import TARGETS
from pipeline.targets.registry import Predictions
from tests.conditioning import agree

LOGITS = torch.tensor([[3.0, 1.0, 2.0, 0.0, 2.5], [0.0, 5.0, 1.0, 4.0, -1.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
LABELS = torch.tensor([2, -1, 0])
PAIRS = (Pair(2, 4, ("tail",)), Pair(0, 2, ("head", "wing")))
WEIGHTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [-1.0, 0.0], [1.0, 1.0]])


PHRASES = (("a red wing", ()), ("a bird", ()), ("a bird", ("a drawing of {}",)))

APART = Differing(tuple(Apart(rival, (("a red wing", 0.5),) * (rival > 1)) for rival in (2, 0, 4, 2, 0)))

NO_PHRASE = [0.0] * len(PHRASES)


DEFAULTS = {
    **dict.fromkeys(["none", "label", "predicted", "second", "least", "class", "reverse", "pairs"], {}),
    # Finer-CAM's paper; its released code has since moved to 1.0 and weights by probability
    "finer": {"gamma": 0.6, "T": 3, "rank": 1, "reference": "logit_rank", "weighting": "uniform", "aggregation": "mean_pre"},
    "class_set": {"sets": (), "aggregation": "sum"},  # CALM eq. 9
    # its supplement: the three attributes that differ most, against "bird"
    "attributes": {"base": "bird", "gamma": 0.6, "top": 3, "templates": ()},
    "text": {"templates": ()},
    "text_contrast": {"gamma": 0.6, "templates": ()},
}


def test_nothing_set_is_what_was_published():
    found = {name: {key: parameter.default for key, parameter in entry.parameters.items()} for name, entry in TARGETS.items()}
    assert found == DEFAULTS, "write the settings of a target, as published, into DEFAULTS, and a case by hand below"
    values = [(name, key, default) for name, row in DEFAULTS.items() for key, default in row.items()]
    assert all(type(found[name][key]) is type(default) for name, key, default in values), "a whole number is not a float"


def explained(written, logits=LOGITS, labels=LABELS, weights=WEIGHTS):
    (found,) = explain_targets(parse(written, TARGETS, "target"), Predictions(logits, labels, lambda: weights, PHRASES)).values()
    return found


def is_direction(written, image, expected):
    """The first direction of an image, class by class and phrase by phrase."""
    agree(lambda logits: explained(written, logits).directions[image, :1], LOGITS, torch.as_tensor(expected)[None])


@pytest.mark.parametrize(
    ("written", "classes"),
    [("label", [2, -1, 0]), ("predicted", [0, 1, 0]), ("second", [4, 3, 1]), ("least", [3, 4, 0]), ("class:3", [3, 3, 3])],
)
def test_plain_targets_are_one_hot_at_the_class_they_name(written, classes):
    found = explained(written)
    assert found.class_id.tolist() == classes
    for direction, c in zip(found.directions, classes, strict=True):
        if c >= 0:
            assert direction.tolist() == [[float(i == c) for i in range(5 + len(PHRASES))]]


def test_finer_is_the_class_minus_gamma_times_the_mean_of_its_nearest():
    found = explained("finer")
    assert found.class_id.tolist() == [2, 1, 0], "the label, and the predicted class where there is none"
    assert found.reference_ids.tolist() == [[0, 4, 1], [3, 2, 0], [1, 2, 3]]
    is_direction("finer", 0, np.array([-0.2, -0.2, 1.0, 0.0, -0.2, *NO_PHRASE]))
    assert found.gamma == 0.6


def test_gamma_zero_is_the_plain_target():
    labels = torch.tensor([2, 1, 0])
    assert torch.equal(explained("finer(gamma=0)", labels=labels).directions, explained("label", labels=labels).directions)


def test_gamma_may_extrapolate_beyond_two():
    assert explained("finer(gamma=3,T=1)").directions[0, 0].tolist() == [-3, 0, 1, 0, 0, *NO_PHRASE]


@pytest.mark.parametrize(("rule", "references"), [("logit_rank", [0, 4]), ("logit_distance", [4, 0]), ("weight_cosine", [0, 4])])
def test_reference_rules_rank_as_they_say(rule, references):
    assert explained(f"finer(reference={rule},T=2)").reference_ids[0].tolist() == references


@pytest.mark.parametrize("rule", ["logit_rank", "logit_distance", "weight_cosine"])
def test_rank_leaves_out_the_most_similar_classes(rule):
    every = explained(f"finer(reference={rule},T=4)").reference_ids
    for rank, T in [(1, 1), (2, 1), (3, 1), (4, 1), (2, 3)]:
        found = explained(f"finer(reference={rule},T={T},rank={rank})")
        assert torch.equal(found.reference_ids, every[:, rank - 1 : rank - 1 + T])


def test_rank_and_distance_agree_where_the_class_is_the_predicted_one():
    labels = LOGITS.argmax(1)
    rank, distance = (explained(f"finer(reference={rule})", labels=labels) for rule in ("logit_rank", "logit_distance"))
    assert torch.equal(rank.reference_ids, distance.reference_ids)


def test_weight_cosine_ignores_length():
    longer = WEIGHTS * torch.tensor([[1.0], [50.0], [1.0], [9.0], [0.01]])
    assert torch.equal(
        explained("finer(reference=weight_cosine)", weights=longer).reference_ids, explained("finer(reference=weight_cosine)").reference_ids
    )


def test_probability_weighting_by_hand():
    p = LOGITS[0].double().softmax(0)
    d = [0, 4]
    total = float(p[d].sum())
    by_hand = torch.zeros(5 + len(PHRASES), dtype=torch.float64)
    by_hand[2] = 1
    for i in d:
        by_hand[i] -= 0.5 * float(p[i]) / total
    is_direction("finer(weighting=prob_detached,T=2,gamma=0.5)", 0, by_hand)


def test_undetached_weighting_is_the_derivative_of_the_weighted_scalar():
    def scalar(y):
        p = y.softmax(0)[[0, 4]]
        return (p * (y[2] - 0.5 * y[[0, 4]])).sum() / (p.sum() + 1e-9)

    y = LOGITS[0].double().requires_grad_()
    (derivative,) = torch.autograd.grad(scalar(y), y)
    is_direction("finer(weighting=prob,T=2,gamma=0.5)", 0, torch.cat([derivative, torch.zeros(len(PHRASES))]))


def test_reverse_points_from_the_class_to_its_rival():
    found = explained("reverse")
    assert found.directions[0, 0].tolist() == [1, 0, -1, 0, 0, *NO_PHRASE]
    assert (found.gamma, found.reference_ids[0].tolist(), found.class_id[0].item()) == (1.0, [0], 2)


@pytest.mark.parametrize(
    ("written", "direction", "gamma"),
    [
        ("text:a bird", [0, 1, 0], None),
        ("text: a bird ", [0, 1, 0], None),
        ("text:a bird(templates=a drawing of {})", [0, 0, 1], None),
        ("text_contrast:a red wing|a bird", [1, -0.6, 0], 0.6),
        ("text_contrast:a bird | a red wing(gamma=2)", [-2, 1, 0], 2.0),
    ],
)
def test_a_phrase_is_a_logit_after_those_of_the_classes(written, direction, gamma):
    found = explained(written)
    assert found.directions.shape == (3, 1, 8)
    is_direction(written, 1, np.array([0.0] * 5 + direction))
    assert found.class_id.tolist() == [-1, -1, -1]
    assert not found.missing.any(), "no class is meant, so none is missing"
    assert found.gamma == gamma


def test_missing_is_the_class_that_was_asked_for():
    assert explained("label").missing.tolist() == [False, True, False]
    assert not any(explained(written).missing.any() for written in ("predicted", "finer", "none"))


@pytest.mark.parametrize("aggregation", ["max_pre", "mean_post"])
def test_joins_keep_one_direction_per_reference(aggregation):
    found = explained(f"finer(aggregation={aggregation})")
    assert found.directions.shape == (3, 3, 5 + len(PHRASES))
    assert found.join == aggregation
    agree(
        lambda logits: explained(f"finer(aggregation={aggregation})", logits).directions.mean(1),
        LOGITS,
        lambda logits: explained("finer", logits).directions[:, 0],
    )


@pytest.mark.parametrize(
    "written",
    [
        "class:5",
        "class:-1",
        "class:bird",
        "finer(T=5)",
        "finer(T=0)",
        "finer(rank=0)",
        "finer(T=2,rank=4)",
        "finer(aggregation=max_pre,weighting=prob)",
        "text",
        "text_contrast:a bird",
        "text_contrast:a bird|",
        "text_contrast:a bird|a bird",
        "text_contrast:a|b|c",
    ],
)
def test_what_does_not_fit_the_classes_is_refused(written):
    with pytest.raises(Refusal):
        explained(written)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_target_does_not_depend_on_batch_neighbours(name):
    written = name + {"class": ":1", "class_set": ":1+3", "text": ":a bird", "text_contrast": ":a red wing|a bird"}.get(name, "")

    read = {"pairs": {"argument": PAIRS}, "attributes": {"argument": APART, "base": "a bird"}}

    def found(*batch):
        each = TARGETS[name].explain(Predictions(*batch, phrases=PHRASES), **read[name]) if name in read else explained(written, *batch)
        return each.values() if isinstance(each, dict) else [each]

    for i in range(3):
        for whole, alone in zip(found(LOGITS, LABELS), found(LOGITS[i : i + 1], LABELS[i : i + 1]), strict=True):
            assert torch.equal(alone.directions[0], whole.directions[i])
            assert torch.equal(alone.class_id[0], whole.class_id[i])


def test_pairs_explain_the_class_each_partner_and_each_difference():
    found = TARGETS["pairs"].explain(Predictions(LOGITS, LABELS), PAIRS)
    assert list(found) == ["#own", "#other_1", "#finer_1", "#other_2", "#finer_2"]
    assert {name: each.class_id.tolist() for name, each in found.items()} == {
        "#own": [2, -1, 0], "#other_1": [4, -1, 2], "#finer_1": [2, -1, 0], "#other_2": [0, -1, -1], "#finer_2": [2, -1, -1],
    }  # fmt: skip
    assert found["#finer_2"].directions[0, 0].tolist() == [-1, 0, 1, 0, 0]
    assert found["#finer_2"].reference_ids[0].tolist() == [0] and found["#finer_2"].gamma == 1
    assert found["#other_1"].directions[2, 0].tolist() == [0, 0, 1, 0, 0]
    alone = TARGETS["pairs"].explain(Predictions(LOGITS, torch.tensor([1, 1, 3])), PAIRS)
    assert {tuple(each.class_id.tolist()) for each in alone.values()} == {(-1, -1, -1)}, "classes in no pair"
    with pytest.raises(Refusal, match="class 5"):
        TARGETS["pairs"].explain(Predictions(LOGITS, LABELS), (Pair(0, 5, ("tail",)),))


def test_attributes_explain_the_class_its_difference_and_each_text():
    found = TARGETS["attributes"].explain(Predictions(LOGITS, LABELS, phrases=PHRASES), APART, base="a bird", gamma=0.5, top=2)
    assert {name: each.class_id.tolist() for name, each in found.items()} == {
        "#label": [2, -1, 0], "#finer": [2, -1, 0], "#attribute_1": [2, -1, 0], "#attribute_2": [-1, -1, -1],
    }  # fmt: skip
    assert found["#label"].directions[0, 0].tolist() == [0, 0, 1, 0, 0]
    assert found["#finer"].directions[:, 0].tolist()[::2] == [[0, 0, 1, 0, -0.5], [1, 0, -0.5, 0, 0]]
    assert found["#finer"].reference_ids.tolist() == [[4], [-1], [2]] and found["#finer"].gamma == 0.5
    assert found["#attribute_1"].directions[0, 0].tolist() == [0, 0, 0, 0, 0, 1, -0.5, 0]


def test_the_rival_is_the_class_nearest_by_weights_and_the_attributes_are_its_own():
    shares = ((1.0, 0.0, 0.5), (0.0, 1.0, 0.5), (0.0, 0.0, 0.5), (0.25, 0.75, 0.0), (0.5, 0.5, 0.75))
    given = Attributes("file", ("has_wing_color::red", "has_size::large", "crested"), shares)
    request = parse("attributes:file(top=2)", TARGETS, "target")
    found = TARGETS["attributes"].fit(given, request.args, WEIGHTS)
    assert [apart.rival for apart in found.classes] == [2, 4, 0, 1, 2]
    assert found.classes[0].attributes == (("red wing color", 1.0),)
    assert found.classes[2].attributes == ()
    assert found.classes[4].attributes == (("red wing color", 0.5), ("large size", 0.5)), "the first of equals"
    assert TARGETS["attributes"].texts(given, request.args) == ["bird", "red wing color", "large size", "crested"]
    assert {*found.texts} == {"red wing color", "large size"}
