"""Prices of machines, storage and requests, read from a small file."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.refusal import Refusal, choose

GB = 1e9


@dataclass(frozen=True)
class Prices:
    """Prices in one currency. `worker_hour` is one explaining worker's share of its machine: a GPU's, or a CPU core's.

    `gb_month` is a month of a gigabyte of storage, `gb_read` what a gigabyte read from it costs, and `reads` and `writes` a thousand requests.
    """

    currency: str = ""
    worker_hour: float = 0.0
    gb_month: float = 0.0
    gb_read: float = 0.0
    reads: float = 0.0
    writes: float = 0.0

    @staticmethod
    def read(path: str) -> "Prices":
        """Read a TOML file with these names.

        Raises:
            Refusal: where it cannot be read, or has another name, or a price that is no number from 0 on.
        """
        try:
            content = tomllib.loads(Path(path).read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Refusal(f"--prices {path}: {error}") from error
        names = [field.name for field in fields(Prices)]
        for name, value in content.items():
            choose(name, names, f"price in {path}")
            if name != "currency" and not (isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0):
                raise Refusal(f"--prices {path}: {name} is {value!r}; it must be a number from 0 on")
        currency = str(content.pop("currency", ""))
        return Prices(currency, **{name: float(value) for name, value in content.items()})
