"""What every method does where nothing is set: the published settings, written down by hand. Those of targets are in test_targets."""

from pipeline.methods import METHODS
from tests.entries import facts


def test_nothing_set_is_what_was_published():
    found = {name: {key: parameter.default for key, parameter in entry.parameters.items()} for name, entry in METHODS.items()}
    written = facts("methods", METHODS, "DEFAULTS")
    assert found == written
    values = [(name, key, default) for name, row in written.items() for key, default in row.items()]
    assert all(type(found[name][key]) is type(default) for name, key, default in values), "a whole number is not a float"
