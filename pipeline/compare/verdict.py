"""The verdict on a drift: one sentence that says what moved, and the limits that it passes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.maps.render import FLAT
from pipeline.refusal import Refusal, choose, counted

FEW = 3  # of each kind that the sentence names
LIKE = {"spearman": 1.0, "ssim": 1.0}  # of maps that are the same; all other numbers are 0
_LIMIT = re.compile(r"(?:(?P<method>[^<>]+)\.)?(?P<quantity>[^<>.]+)(?P<sign>[<>])(?P<bound>[-+]?[\d.]+(?:e[-+]?\d+)?)")


@dataclass(frozen=True)
class Limit:
    """A value of a quantity, of one method or of all, beyond which a drift is bad: `spearman<0.9`, `grad_cam.energy<-0.02`."""

    text: str
    method: str | None
    quantity: str
    below: bool
    bound: float

    @staticmethod
    def parse(text: str) -> "Limit":
        """Read a limit.

        Raises:
            Refusal: where it is none.
        """
        match = _LIMIT.fullmatch(text.replace(" ", ""))
        if not match:
            raise Refusal(f"--bad {text!r} is no limit; write QUANTITY<NUMBER or QUANTITY>NUMBER, as spearman<0.9 or grad_cam.energy<-0.02")
        return Limit(text, match["method"], match["quantity"], match["sign"] == "<", float(match["bound"]))

    def passed_by(self, row: Mapping) -> bool:
        """Whether a row of `drift` is beyond the limit for sure: its value and, where it has an interval, the whole of it."""
        nearest = row["ci_high" if self.below else "ci_low"]
        numbers = [number for number in (row["value"], nearest) if number is not None]
        return bool(numbers) and all(number < self.bound if self.below else number > self.bound for number in numbers)


def rows_beyond(limits: Iterable[Limit], rows: Sequence[Mapping]) -> list[tuple[Limit, Mapping]]:
    """The rows over all images that are beyond a limit.

    Raises:
        Refusal: where a limit names a quantity or a method that no row has.
    """
    overall = [row for row in rows if row["scope"] == "all" and row["kind"] != "versions"]
    beyond = []
    for limit in limits:
        choose(limit.quantity, sorted({row["quantity"] for row in overall}), f"quantity of --bad {limit.text}")
        if limit.method:
            choose(limit.method, sorted({row["method"] for row in overall if row["method"]}), f"method of --bad {limit.text}")
        own = [row for row in overall if row["quantity"] == limit.quantity and limit.method in (None, row["method"])]
        beyond += [(limit, row) for row in own if limit.passed_by(row)]
    return beyond


def sentence(rows: Sequence[Mapping], beyond: Sequence[tuple[Limit, Mapping]]) -> str:
    """What moved between two runs, in one sentence, and what of it is bad."""
    phrases = [phrase for phrase in (_inputs(rows), _predictions(rows), _maps(rows), _metrics(rows)) if phrase]
    versions = [f"{row['quantity']} {row['detail']}" for row in rows if row["kind"] == "versions"]
    moved = "moved: " + "; ".join(phrases) if phrases else f"nothing moved in {_compared(rows)}"
    other = f"; other versions or settings: {_few(versions)}" if versions else ""
    bad = f"; bad: {_few([f'{describe(row)} ({limit.text})' for limit, row in beyond])}" if beyond else ""
    return moved + other + bad


def describe(row: Mapping) -> str:
    """A row of `drift` in words: energy of grad_cam for label -0.021 [-0.030, -0.012]."""
    of_maps = f" of {row['method']} for {row['target']}" if row["method"] else ""
    ends = "" if row["ci_low"] is None else f" [{row['ci_low']:.3g}, {row['ci_high']:.3g}]"
    return f"{row['quantity']}{of_maps} {row['value']:.3g}{ends}"


def has_changed(row: Mapping) -> bool:
    """Whether a row of `drift` tells of a change: a count, a likeness that is not whole, a paired difference whose interval leaves out zero."""
    if row["value"] is None:
        return row["kind"] == "versions"
    if row["before"] is None or row["kind"] == "inputs":
        return row["value"] != LIKE.get(row["quantity"], 0)
    if abs(row["value"]) <= FLAT * max(abs(row["before"]), abs(row["now"])):
        return False
    return row["ci_low"] is None or not row["ci_low"] <= 0 <= row["ci_high"]


def _overall(rows: Sequence[Mapping], kind: str, quantity: str | None = None) -> list[Mapping]:
    return [row for row in rows if row["kind"] == kind and row["scope"] == "all" and quantity in (None, row["quantity"])]


def _inputs(rows: Sequence[Mapping]) -> str:
    counts = {row["quantity"]: row["value"] for row in _overall(rows, "inputs")}
    return ", ".join(counted(int(count), quantity.replace("_", " ")) for quantity, count in counts.items() if count)


def _predictions(rows: Sequence[Mapping]) -> str:
    [flips] = _overall(rows, "predictions", "flips")
    [probability] = _overall(rows, "predictions", "label_prob")
    changed = f"{flips['value']:.1%} of {flips['n']:,} predictions flipped" if flips["value"] else ""
    return changed or (describe(probability) if has_changed(probability) else "")


def _maps(rows: Sequence[Mapping]) -> str:
    moved = sorted((row for row in _overall(rows, "maps", "moved") if row["value"]), key=lambda row: -row["value"])
    likeness = {(row["method"], row["target"]): row["value"] for row in _overall(rows, "maps", "spearman")}
    names = [
        f"{row['value']:.0%} of {row['method']} for {row['target']}, rank correlation {likeness[row['method'], row['target']]:.3g}"
        for row in moved
        if likeness[row["method"], row["target"]] is not None
    ]
    return f"maps: {_few(names)}" if moved else ""


def _metrics(rows: Sequence[Mapping]) -> str:
    changed = [row for row in _overall(rows, "metrics") if has_changed(row)]
    return f"metrics: {_few([describe(row) for row in changed])}" if changed else ""


def _compared(rows: Sequence[Mapping]) -> str:
    images = _overall(rows, "predictions", "flips")[0]["n"]
    maps = sum(row["n"] for row in _overall(rows, "maps", "moved"))
    return f"the predictions of {counted(images, 'images')} and {counted(maps, 'maps')}"


def _few(phrases: Sequence[str]) -> str:
    more = f" and {len(phrases) - FEW} more" if len(phrases) > FEW else ""
    return "; ".join(phrases[:FEW]) + more
