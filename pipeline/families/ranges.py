"""The ranges of settings, written as their annotations: `steps: Count = 100`."""

from dataclasses import dataclass
from math import inf, isfinite
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, both included, but for `low` where `above` and for `high` where `below`."""

    low: float
    high: float = inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        excluded = (self.above and number == self.low) or (self.below and number == self.high)
        return isfinite(number) and self.low <= number <= self.high and not excluded

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        return low + (f" and {'below' if self.below else 'at most'} {self.high:g}" if isfinite(self.high) else "")


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Amount = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Level = Annotated[float, Range(0, 1, below=True)]
Share = Annotated[float, Range(0, 1, above=True)]
