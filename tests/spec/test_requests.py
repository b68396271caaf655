"""What users write on the command line."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest

from jobs.gc import Gc
from pipeline.classes import attributes, pairs
from pipeline.classes.class_sets import read_class_sets
from pipeline.datasets.packing import Pack
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.refusal import Count, Level, Positive, Range, Refusal, check_numbers
from pipeline.sources.labels import Classes
from pipeline.spec.grammar import describe_registry, parse, parse_all
from pipeline.spec.job import Job
from pipeline.targets import TARGETS
from pipeline.train.job import Training
from pipeline.train.probe.job import ProbeJob


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


NUMBERS = {int: ("-1000000", "1000000000000000000000"), float: ("-1e6", "1e999")}
FREE = {  # by what they mean: any weight of a rival, any number of references there may be, pixels of an image
    **{("finer", name): "gamma and ranks" for name in ("gamma", "T", "rank")},
    **{("reverse", name): "as finer" for name in ("gamma", "T", "rank")},
    **{("attributes", name): "as finer" for name in ("gamma", "top")},
    ("text_contrast", "gamma"): "as finer",
}


def numeric():
    for registry, what in ((METHODS, "method"), (METRICS, "metric"), (TARGETS, "target")):
        for name, entry in registry.items():
            for setting, parameter in entry.parameters.items():
                each = parameter.type
                while get_origin(each) in (tuple, Annotated):
                    each = get_args(each)[0]
                if each in NUMBERS and (name, setting) not in FREE:
                    yield pytest.param(registry, what, name, setting, NUMBERS[each], id=f"{name}.{setting}")


@pytest.mark.parametrize(("registry", "what", "name", "setting", "numbers"), numeric())
def test_every_number_has_a_range_that_its_default_is_in(registry, what, name, setting, numbers):
    default = registry[name].parameters[setting].default
    assert dict(parse(f"{name}({setting}={default})", registry, what).settings)[setting] == default
    for number in numbers[: 2 if isinstance(default, float) else 1]:
        with pytest.raises(Refusal, match=rf"{name}\.{setting} is .*must be"):
            parse(f"{name}({setting}={number})", registry, what)


@pytest.mark.parametrize(
    "written",
    ["extremal(areas=())", "extremal(areas=(0.1,2.0))", "extremal(levels=1)", "rglas(t1=1.5)", "rise(p=0)", "lime(ratio=1.1)", "pxap(bins=0)",
     "box_acc(step=2)", "max_box_acc_v2(step=0)", "pointing_blob(threshold=1)"],
)  # fmt: skip
def test_numbers_outside_of_their_range_are_refused(written):
    registry = METHODS if written.partition("(")[0] in METHODS else METRICS
    with pytest.raises(Refusal, match="must (be|have) (at least|above)"):
        parse(written, registry, "method")


JOBS = (
    Job(source=("a",), backbone="timm/b", out="c"),
    Pack(root="a", out="b"),
    Training(source=("a",), backbone="timm/b", out="c", classes="2"),
    ProbeJob(train=("a",), classes="b", backbone="timm/c", out="d"),
    Gc(out="a"),
)


def number_of(annotation):
    """An annotation's number, with its range where it has one; None where it has no number."""
    if annotation in NUMBERS or (get_origin(annotation) is Annotated and get_args(annotation)[0] in NUMBERS):
        return annotation
    return next(filter(None, map(number_of, get_args(annotation))), None)


def flags():
    for job in JOBS:
        for name, annotation in get_type_hints(type(job), include_extras=True).items():
            if number_of(annotation) and name != "seed":
                yield pytest.param(job, name, annotation, id=f"{type(job).__name__}.{name}")


@pytest.mark.parametrize(("job", "name", "annotation"), flags())
def test_every_number_of_a_job_has_a_range_outside_of_which_it_is_refused(job, name, annotation):
    allowed = get_args(number_of(annotation))[1]
    for number in {allowed.low - 1, float("nan"), *([allowed.high + 1] if allowed.high < float("inf") else [])}:
        value = (number,) if get_origin(annotation) is tuple else number
        with pytest.raises(Refusal) as caught:
            replace(job, **{name: value})
        assert str(caught.value) == f"--{name.replace('_', '-')} is {number}; it must be {allowed}"


@dataclass
class Numbers:
    count: Count | None = None
    levels: tuple[Level, ...] = ()
    between: Annotated[float, Range(0, 1, above=True, below=True)] = 0.5
    free: int = -5
    word: Annotated[str, "no range"] = "a"


def test_a_number_may_be_left_out_and_each_of_several_is_checked():
    check_numbers(Numbers())
    check_numbers(Numbers(3, (0, 0.5)))
    for wrong, message in (
        (Numbers(0), "--count is 0; it must be at least 1"),
        (Numbers(1, (0, 1)), "--levels is 1; it must be at least 0 and below 1"),
        (Numbers(between=0), "--between is 0; it must be above 0 and below 1"),
        (Numbers(between=1), "--between is 1; it must be above 0 and below 1"),
    ):
        with pytest.raises(Refusal) as caught:
            check_numbers(wrong)
        assert str(caught.value) == message
    assert 0 not in get_args(Positive)[1]


READERS = {"attributes": attributes.read, "pairs": pairs.read, "class sets": lambda url: read_class_sets(url, Classes(2))}


@pytest.mark.parametrize("noun", READERS)
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"7", b"null", b"[]", b'["a"]', b'{"a": 1}', b"[" * 100_000])
def test_a_file_of_another_form_is_refused_with_the_form_it_must_have(tmp_path, noun, content):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Refusal) as caught:
        READERS[noun](str(path))
    start = f"there is no file of {noun} at {path}" if content is None else f"{path} is no file of {noun}"
    assert str(caught.value).startswith(f"{start}; it must hold {{") and "\n" not in str(caught.value)


def test_a_preset_is_a_word_for_its_settings_and_what_is_written_beside_it_is_stronger():
    assert methods("glas(preset=ilsvrc)")["glas"] == methods("glas(sigma_light=5,sigma_map=6)")["glas"]
    assert methods("glas(preset=fine)")["glas"] == methods("glas")["glas"]
    spelled = methods("glas(sigma_light=3.0,sigma_map=6)")["glas"]
    for asked in (["glas(preset=ilsvrc,sigma_light=3.0)"], ["glas(sigma_light=3.0,preset=ilsvrc)"]):
        assert methods(*asked)["glas"] == spelled
    assert methods("glas", settings=["glas.sigma_light=3.0", "glas.preset=ilsvrc"])["glas"] == spelled
    assert methods("glas(preset=ilsvrc)", settings=["glas.preset=fine"])["glas"] == methods("glas")["glas"]


@pytest.mark.parametrize("written", ["class", "class:"])
def test_a_target_about_something_needs_it(written):
    with pytest.raises(Refusal, match="class:<id>"):
        targets(written)


@pytest.mark.parametrize("registry", [METHODS, TARGETS])
def test_every_entry_and_setting_is_described(registry):
    text = describe_registry(registry)
    for name, entry in registry.items():
        assert name in text
        for setting, parameter in entry.parameters.items():
            assert f"{setting}={parameter.default}" in text
            if get_origin(parameter.type) is Literal:
                assert all(word in text for word in get_args(parameter.type))
