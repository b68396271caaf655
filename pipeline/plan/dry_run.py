"""What a job would compute, and why: what it asks for beside what the run published last had asked for."""

from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.plan.task import Task
from pipeline.spec.output import Output

_ASKED = ("method", "target", "metric")


def print_dry_run(todo: Sequence[Task], wanted: Sequence[Output], tasks: int, methods: Iterable[dict], before: dict | None) -> None:
    """Print, cell by cell, how many of all `tasks` it is missing in, and for which reasons.

    `methods` are this job's as run.json describes them; `before` is the run.json of the run published last.
    """
    shards = {shard["name"]: shard["identity"] for shard in before["shards"]} if before else {}
    for i, cell in enumerate(wanted):
        missing = [task for task in todo if i in task.missing]
        asked = _new(cell, methods, before) if before else "never answered"
        reasons = Counter(asked or _why(task, shards) for task in missing)
        why = f" ({', '.join(f'{count} {reason}' for reason, count in sorted(reasons.items()))})" if missing else ""
        print(f"{_name(cell)}: {len(missing)} of {tasks} tasks to compute{why}")
    print(f"{sum(task.stop - task.start for task in todo)} images would be read")


def _name(cell: Output) -> str:
    return " ".join([cell.table, *(asked.alias for asked in (cell.metric, cell.method, cell.target) if asked)])


def _why(task: Task, shards: dict[str, str]) -> str:
    """Why a question that was asked before is open for this task."""
    if task.shard.name not in shards:
        return "shard new"
    return "never answered" if shards[task.shard.name] == task.index.identity else "shard changed"


def _new(cell: Output, methods: Iterable[dict], before: dict) -> str | None:
    """What is new about the question itself; None where it was asked before."""
    if cell.identity in {asked["identity"] for asked in before["cells"]}:
        return None
    names = {asked: (r := getattr(cell, asked)) and r.alias for asked in _ASKED}
    same = [asked for asked in before["cells"] if asked["table"] == cell.table and all(asked[key] == names[key] for key in _ASKED)]
    if not same:
        fresh = [key for key in _ASKED if names[key] and names[key] not in {asked[key] for asked in before["cells"]}]
        return f"{(fresh or [cell.table])[0]} new"
    if cell.method:
        now, then = (next((m for m in each if m["name"] == cell.method.alias), {}) for each in (methods, before["methods"]))
        if now.get("version") != then.get("version"):
            return f"version of {cell.method.alias} raised from {then.get('version')} to {now.get('version')}"
    return "settings or network changed"
