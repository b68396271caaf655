"""What the run published last holds and a new one will not, so that the new one can say so."""

from collections.abc import Collection, Mapping

from pipeline.plan.state import RunState
from pipeline.refusal import counted
from pipeline.spec.explain_spec import CONTROLS
from pipeline.tables import schema

FEW = 4  # names of a kind that are told
ADDABLE = {"methods", "targets", "metrics", "analyses"}

Dropped = dict[str, list[str] | int]  # kind, in the plural -> names, or how many


def dropped_by(state: RunState) -> Dropped:
    """The methods, targets, metrics, columns, shards and images of the run published last by this name that the new run will not hold."""
    before, checked = state.before, state.checked
    if not before:
        return {}
    cells, outputs = before["cells"], checked.outputs

    def names(kind: str) -> set[str | None]:
        now = {choice.alias for output in outputs if (choice := getattr(output, kind))}
        return {cell[kind] for cell in cells} - now - {None, "none"}

    controls = set() if checked.spec.metrics else {*CONTROLS}  # they go with the metrics, which are named
    found: dict[str, Collection[str | None]] = {f"{kind}s": names(kind) for kind in ("method", "target", "metric")}
    found["methods"] = {*found["methods"]} - controls
    found["columns"] = {*checked.spec.no_store} - {*before["job"].get("no_store", ())}
    found["curves"] = {"weight_similarity"} if before["job"].get("weight_similarity") and not checked.job.weight_similarity else ()
    found["analyses"] = {entry["table"] for entry in before["files"]} & schema.ANALYSES.keys() - {a.name for a in checked.analyses}
    dropped: Dropped = {kind: sorted(filter(None, gone)) for kind, gone in found.items() if gone}
    shards = {shard["name"] for shard in before["shards"] if shard["images"]} - {
        shard.name for shard, i in state.indexes.items() if i.count
    }
    images = before["counts"]["images"] - sum(task.count for task in state.tasks)
    counts = {"shards": len(shards), "images": 0 if shards else images}
    return dropped | {kind: count for kind, count in counts.items() if count > 0}


def in_words(dropped: Mapping[str, list[str] | int]) -> str:
    """What is dropped, in words: methods a b, metric c, 2 shards."""
    return ", ".join(_phrase(kind, names) for kind, names in dropped.items())


def _phrase(kind: str, names: list[str] | int) -> str:
    if isinstance(names, int):
        return counted(names, kind)
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"{kind if len(names) > 1 else kind.removesuffix('s')} {' '.join(names[:FEW])}{more}"
