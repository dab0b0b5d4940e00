"""A real sensor series: sea surface temperatures of the El Nino region, as statsmodels has them.

Monthly averages in degrees Celsius, January 1950 to December 2010 (NOAA; public domain).
"""

from __future__ import annotations

import csv
import importlib.resources
import importlib.util
from dataclasses import dataclass

from rehearsal.errors import EstateError

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


@dataclass(frozen=True)
class Reading:
    """One value; `month` as in `1950-01`."""

    month: str
    celsius: float


def el_nino() -> list[Reading]:
    """All readings by time. Raises EstateError when statsmodels is not installed."""
    specification = importlib.util.find_spec("statsmodels")
    if specification is None:
        raise EstateError("statsmodels", "not installed", "run ./estate, which installs the lock")
    # The package as a place of files: running its code would load SciPy and pandas.
    package = importlib.util.module_from_spec(specification)
    file = importlib.resources.files(package) / "datasets" / "elnino" / "elnino.csv"
    with file.open(encoding="utf-8") as stream:
        return [
            Reading(f"{row['YEAR']}-{number:02d}", float(row[month]))
            for row in csv.DictReader(stream)
            for number, month in enumerate(_MONTHS, start=1)
        ]


def devices(count: int) -> list[str]:
    """Names of the devices that replay the series."""
    return [f"buoy-{number}" for number in range(1, count + 1)]


def reading(series: list[Reading], device: int, count: int, sequence: int) -> Reading:
    """What device number `device` of `count` measures at `sequence`: each has its own decade."""
    return series[(device * len(series) // count + sequence) % len(series)]
