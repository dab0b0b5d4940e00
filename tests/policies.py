"""Which policies objects break: what the tests of single components ask."""

from __future__ import annotations

from collections.abc import Iterable

from policies import model
from policies.rules import RULES


def broken(subjects: Iterable[model.Subject]) -> list[str]:
    """A line for each finding: policy, object, part and what is wrong."""
    return [
        f"{rule.name}: {one.where} {finding.part}: {finding.message}"
        for one in subjects
        for rule in RULES
        for finding in model.broken(rule, one)
    ]
