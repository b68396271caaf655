"""What users write on the command line."""

import pytest

from pipeline.methods import METHODS
from pipeline.refusal import Refusal
from pipeline.requests import described, parse_all
from pipeline.targets import TARGETS


def methods(*written, settings=()):
    return {request.alias: request for request in parse_all(written, METHODS, "method", settings)}


def targets(*written, settings=()):
    return {request.alias: request for request in parse_all(written, TARGETS, "target", settings)}


def test_a_bare_name_is_one_method():
    assert list(methods("cam")) == ["cam"]


@pytest.mark.parametrize("written", ["all", "family:cam"])
def test_families_expand_and_are_not_explicit(written):
    found = methods(written)
    assert set(found) == {name for name, method in METHODS.items() if written == "all" or method.family == "cam"}
    assert not any(request.explicit for request in found.values())


def test_a_name_given_beside_its_family_is_explicit_with_its_settings():
    found = methods("family:cam", "grad_cam_pp(eps=1e-6)")
    assert found["grad_cam_pp"].explicit
    assert found["grad_cam_pp"].args["eps"] == 1e-6


def test_two_settings_run_side_by_side_under_aliases():
    found = targets("f08=finer(gamma=0.8)", "finer")
    assert (found["f08"].args["gamma"], found["finer"].args["gamma"]) == (0.8, 0.6)
    assert found["f08"].name == "finer"


def test_settings_apply_by_name_and_by_alias():
    found = targets("f08=finer", "finer", settings=["f08.gamma=0.8", "finer.T=2"])
    assert found["f08"].args["gamma"] == 0.8
    assert found["finer"].args["gamma"] == 0.6
    assert {request.args["T"] for request in found.values()} == {2}


def test_a_whole_number_is_a_float_where_a_float_is_meant():
    assert targets("finer(gamma=2)")["finer"].args["gamma"] == 2.0


def test_arguments_after_a_colon_belong_to_the_name():
    found = targets("class:7", "class:12")
    assert [request.argument for request in found.values()] == ["7", "12"]


@pytest.mark.parametrize(
    ("written", "settings", "expected"),
    [
        (["grad_camm"], [], "grad_cam"),
        (["family:cams"], [], "cam"),
        (["grad_cam(eps=1)"], [], "eps"),
        (["grad_cam_pp(eps=small)"], [], "float"),
        (["cam(norm=max)"], [], "minmax"),
        (["a=grad_cam", "a=hires_cam"], [], "alias"),
        (["grad_cam"], ["opti_cam.steps=50"], "not asked for"),
        (["grad_cam"], ["grad_cam"], "setting=value"),
        (["grad_cam("], [], "cannot read"),
        (["grad_cam:3"], [], "no argument"),
    ],
)
def test_mistakes_are_refused_with_what_would_be_right(written, settings, expected):
    with pytest.raises(Refusal, match=expected):
        methods(*written, settings=settings)


@pytest.mark.parametrize("written", ["class", "class:"])
def test_a_target_about_something_needs_it(written):
    with pytest.raises(Refusal, match="class:<id>"):
        targets(written)


@pytest.mark.parametrize("registry", [METHODS, TARGETS])
def test_every_entry_and_setting_is_described(registry):
    text = described(registry)
    for name, entry in registry.items():
        assert name in text
        assert all(setting in text for setting in entry.parameters)
