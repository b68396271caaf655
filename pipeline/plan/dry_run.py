"""The outputs that a job would compute, and why: beside those of the run published last."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from pipeline.plan.task import Task
from pipeline.refusal import counted
from pipeline.spec.output import Output

_PARTS = ("method", "target", "metric")


def print_dry_run(
    open_tasks: Sequence[Task],
    outputs: Sequence[Output],
    tasks: int,
    methods: Iterable[dict],
    before: dict | None,
    analyses: Sequence[str] = (),
) -> None:
    """Print for every output how many of all `tasks` it is missing in, and for which reasons.

    `methods` are this job's as run.json describes them; `before` is the run.json of the run published last.
    """
    shards: dict[str, set[str]] = {}  # the chunks of a folder share its name
    for shard in before["shards"] if before else ():
        shards.setdefault(shard["name"], set()).add(shard["identity"])
    for i, output in enumerate(outputs):
        missing = [task for task in open_tasks if i in task.missing]
        reason_for_all = _reason_for_all(output, methods, before) if before else "never answered"
        reasons = Counter(reason_for_all or _reason_for_one(task, shards) for task in missing)
        reasons_text = f" ({', '.join(f'{reason}: {count}' for reason, count in sorted(reasons.items()))})" if missing else ""
        print(f"{_name(output)}: {len(missing)} of {counted(tasks, 'tasks')} to compute{reasons_text}")
    if analyses:
        print(f"analyses, of the classes that changed: {' '.join(analyses)}")
    print(f"{counted(sum(task.count for task in open_tasks), 'images')} would be read")


def _name(output: Output) -> str:
    return " ".join([output.table, *(part.alias for part in (output.metric, output.method, output.target) if part)])


def _reason_for_one(task: Task, shards: Mapping[str, Collection[str]]) -> str:
    """Why an output that the last run had is missing for this task."""
    if task.shard.name not in shards:
        return "shard new"
    return "never answered" if task.index.identity in shards[task.shard.name] else "shard changed"


def _reason_for_all(output: Output, methods: Iterable[dict], before: dict) -> str | None:
    """The reason why no task of the run published last had the output; None where one had."""
    if output.identity in {cell["identity"] for cell in before["cells"]}:
        return None
    names = {part: (choice := getattr(output, part)) and choice.alias for part in _PARTS}
    same = [cell for cell in before["cells"] if cell["table"] == output.table and all(cell[part] == names[part] for part in _PARTS)]
    if not same:
        new_parts = [part for part in _PARTS if names[part] and names[part] not in {cell[part] for cell in before["cells"]}]
        return f"{(new_parts or [output.table])[0]} new"
    if output.method:
        alias = output.method.alias
        now, then = (next((entry for entry in entries if entry["name"] == alias), {}) for entries in (methods, before["methods"]))
        if now.get("version") != then.get("version"):
            return f"version of {alias} raised from {then.get('version')} to {now.get('version')}"
    return "settings or network changed"
