"""The baselines of a row of the summary: maps of the control `random`, and the same method's maps of the target `label`."""

from dataclasses import dataclass, replace
from typing import NamedTuple


class Columns(NamedTuple):
    """The columns of the summary that hold a number and the ends of its interval."""

    value: str
    low: str
    high: str


OWN = Columns("mean", "ci_low", "ci_high")
TO_RANDOM = Columns("diff_random", "diff_random_low", "diff_random_high")
TO_LABEL = Columns("diff_label", "diff_label_low", "diff_label_high")
CONTROL_COLUMNS = {control: Columns(control, f"{control}_low", f"{control}_high") for control in ("random", "fake_cam")}


@dataclass(frozen=True)
class SummaryKey:
    """The row of the summary of one column of metrics, for one method and target, over the images or pairs of one scope."""

    model: str
    method: str
    target: str
    metric: str
    scope: str

    def baselines(self) -> dict[Columns, "SummaryKey"]:
        """The rows this one is compared with, by the columns that hold the difference."""
        baselines = {TO_RANDOM: replace(self, method="random", target="none")}
        if compared_to_label(self.target):
            baselines[TO_LABEL] = replace(self, target="label")
        return baselines


def compared_to_label(target: str) -> bool:
    """Whether maps of a target are compared with the same method's maps of `label`."""
    return target not in ("label", "none")
