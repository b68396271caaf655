"""Images held in memory, explained in this process: the code a cluster's workers run, without the cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from pipeline import backbones
from pipeline.backbones.network import Network
from pipeline.plan.fit import fit_to_backbone, refuse_one_logit, with_class_sets
from pipeline.plan.outputs import outputs_of
from pipeline.reduce.curves import curves_of
from pipeline.reduce.summary import summarise
from pipeline.refusal import Refusal, choose
from pipeline.run.in_memory import decoded_images
from pipeline.spec.explain_spec import ExplainSpec, build_spec
from pipeline.spec.job import Job
from pipeline.spec.output import Output
from pipeline.stages.explainer import Explainer
from pipeline.tables import schema
from pipeline.tables.errors import deduplicate
from pipeline.tables.wide import drop_groups, widen

SETTINGS = ("activation", "precision", "map_size", "seed", "select", "no_store", "plugins")


def explain(
    images: Any,
    labels: Any,
    backbone: str | backbones.Backbone | Network,
    methods: str | Sequence[str],
    targets: str | Sequence[str] = ("label",),
    *,
    keys: Any = None,
    device: str = "cpu",
    batch_size: int | None = None,
    method_args: str | Sequence[str] = (),
    target_args: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    metric_args: str | Sequence[str] = (),
    boxes: Any = None,
    masks: Any = None,
    parts: Any = None,
    part_names: Sequence[str] = (),
    class_sets: Mapping[str, Sequence[int]] | None = None,
    **settings,
) -> dict[str, pa.Table]:
    """Explain images held in memory, in this process: the code a cluster's workers run, without the cluster.

    Whatever there is one of for each image may be a list, an array, a tensor or a Series, with None where nothing is known.

    Args:
        images: uint8 [N 3 H W] at the network's input size, RGB.
        labels: class indices, or names of classes where the network has them.
        backbone: a name such as `timm/resnet50`, a `Network`, or a loaded backbone.
        methods, targets, metrics, method_args, target_args, metric_args: as on the command line.
        boxes: each image's boxes x0 y0 x1 y1, as fractions of the image; a single box need not lie in a list.
        masks: each image's object [H W] at the network's input size: bool, or uint8 where 128 is what counts neither way.
        parts: each image's parts: the points (x, y) of those that can be seen by name, as fractions of the image; or uint8 [H W] at the
            network's input size, code i for part_names[i - 1] and 0 for none.
        part_names: the names of the parts that codes stand for.
        class_sets: class numbers by name, for targets class_set:NAME.
        keys: names of the images, which seed their noise; their positions by default.
        settings: activation, precision, map_size, seed, select, no_store, and plugins as on the command line.

    Returns:
        The tables of a run by name: images, features, predictions, maps, errors, and with metrics: metrics, partials, summary, curves.

    Raises:
        Refusal: for anything that cannot be carried out.
    """
    if isinstance(backbone, str):
        backbone = Network(backbone)
    settings = _checked(settings, device, batch_size)
    asked = [_listed(names) for names in (methods, targets, method_args, target_args, metrics, metric_args)]
    spec = build_spec(*asked, **settings)  # type: ignore[arg-type]  # mypy takes a starred list for every argument there is
    if isinstance(backbone, Network):
        backbone = replace(backbone, phrases=spec.phrases).load()
    refuse_one_logit(backbone, spec.activation)  # before labels are compared with the one class
    known = {"labels": labels, "keys": keys, "boxes": boxes, "masks": masks, "parts": parts, "part_names": part_names}
    decoded = decoded_images(images, backbone, **known)
    sets = {name: tuple(members) for name, members in (class_sets or {}).items()}
    spec, _ = fit_to_backbone(with_class_sets(spec, sets), backbone)
    results = Explainer(backbone, spec, device, batch_size)(decoded, outputs_of(spec, backbone, ()))
    return _gather(results, spec)


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    """Names as a command line has them; a single one need not lie in a list."""
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def _checked(settings: Mapping[str, Any], device: str, batch_size: int | None) -> dict[str, Any]:
    """The settings in the form that a command line gives them.

    Raises:
        Refusal: as for a command line: an unknown setting, a number outside its range, a GPU that is not there.
    """
    for name in settings:
        choose(name, SETTINGS, "setting of pipeline.explain")
    listed = {name: _listed(settings[name]) for name in ("no_store", "plugins") if name in settings}
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise Refusal(f"device {device!r}: there is no GPU here; use 'cpu'")
    checked = {**settings, **listed}
    Job(source=("images",), backbone="", out="memory://", batch_size="auto" if batch_size is None else str(batch_size), **checked)
    return checked


def _gather(results: Sequence[tuple[Output, pa.Table, pa.Table]], spec: ExplainSpec) -> dict[str, pa.Table]:
    """Put results together into the tables of a run; an error that several outputs met has one row."""
    tables = {"errors": pa.Table.from_pylist([], schema.ERRORS), "maps": pa.Table.from_pylist([], schema.MAPS)}
    for output, rows, errors in results:
        tables[output.table] = pa.concat_tables([tables[output.table], rows]) if output.table in tables else rows
        tables["errors"] = pa.concat_tables([tables["errors"], errors])
    tables["errors"] = deduplicate(tables["errors"])
    if spec.metrics:
        tables["metrics"] = widen(tables.pop("scores", schema.SCORES.empty_table()), spec.columns)
        partials = tables.get("partials", schema.PARTIALS.empty_table())
        tables["summary"] = summarise(tables["metrics"], partials, spec)
        tables |= {"partials": drop_groups(partials), "curves": curves_of(partials)}
    return tables
