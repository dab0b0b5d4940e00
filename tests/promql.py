"""What tests must know of PromQL: which series a query names, and Grafana's variables in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NO_SERIES = re.compile(
    r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)'
)
_NAME = re.compile(r"(?<![\w:$.])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")
_WORDS = {"and", "or", "unless", "bool", "offset", "group_left", "group_right", "inf", "nan"}


def series(query: str) -> set[str]:
    """The names of the series that a query reads; those of its labels and functions are none."""
    return set(_NAME.findall(_NO_SERIES.sub(" ", query))) - _WORDS


def queries(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Title of the panel and PromQL of every query of a dashboard."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def resolved(query: str, values: Mapping[str, str]) -> str:
    """The query with the values of variables, as Grafana sends it; KeyError for an unknown one."""
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], query)
