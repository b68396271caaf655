"""What every method and target does where nothing is set: the published settings, written down by hand."""

import pytest

from pipeline.methods import METHODS
from pipeline.targets import TARGETS
from tests.entries import facts

EXPLAINED = {
    **dict.fromkeys(["none", "label", "predicted", "second", "least", "class", "reverse", "pairs"], {}),
    # Finer-CAM's paper; its released code has since moved to 1.0 and weights by probability
    "finer": {"gamma": 0.6, "T": 3, "rank": 1, "reference": "logit_rank", "weighting": "uniform", "aggregation": "mean_pre"},
    "class_set": {"sets": (), "aggregation": "sum"},  # CALM eq. 9
    # its supplement: the three attributes that differ most, against "bird"
    "attributes": {"base": "bird", "gamma": 0.6, "top": 3, "templates": ()},
    "text": {"templates": ()},
    "text_contrast": {"gamma": 0.6, "templates": ()},
}


@pytest.mark.parametrize(
    ("registry", "written"), [(METHODS, facts("methods", METHODS, "DEFAULTS")), (TARGETS, EXPLAINED)], ids=["methods", "targets"]
)
def test_nothing_set_is_what_was_published(registry, written):
    found = {name: {key: parameter.default for key, parameter in entry.parameters.items()} for name, entry in registry.items()}
    assert found == written
    values = [(name, key, default) for name, row in written.items() for key, default in row.items()]
    assert all(type(found[name][key]) is type(default) for name, key, default in values), "a whole number is not a float"
