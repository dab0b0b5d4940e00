"""Subjects, findings, rules and waivers.

A waiver stands at what it waives. On an object it is an annotation:

    policy.estate.dev/waive.<rule>[.<part>]: <reason>

`<part>` is a container, a port or whatever the finding names; it covers the parts below it. For a
whole environment it is the key `waivers` of its file. A waiver that waives nothing is a violation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Object = Mapping[str, Any]
"""A Kubernetes object as its manifest writes it (camelCase keys)."""

Level = Literal["privileged", "baseline", "restricted"]
"""Of Pod Security."""

PREFIX = "policy.estate.dev/waive."
SHORTEST_REASON = 15
"""Characters: less than a few words is no reason."""

LINTERS = ("checkov", "kube-score")
"""Their checks are waived in the same way (`waive.checkov.CKV_K8S_40`), and judged by the tests."""

_LINTERS_CHECK = re.compile(r"checkov\.CKV2?_[A-Z0-9]+_\d+|kube-score\.[a-z]+(-[a-z]+)+")


@dataclass(frozen=True)
class Finding:
    """What is wrong with an object; `part` names which part of it, dotted, or nothing."""

    message: str
    part: str = ""
    waivable: bool = True


@dataclass(frozen=True)
class Subject:
    """An object, whether Pulumi protects it, and the Pod Security level of its namespace."""

    body: Object
    protect: bool = False
    level: Level = "restricted"
    urn: str = ""

    @property
    def kind(self) -> str:
        """`Deployment` for one."""
        return str(self.body.get("kind", ""))

    @property
    def metadata(self) -> Object:
        """Its metadata, empty where it has none."""
        return self.body.get("metadata") or {}

    @property
    def name(self) -> str:
        """Its name within its namespace."""
        return str(self.metadata.get("name", ""))

    @property
    def namespace(self) -> str:
        """Its namespace; empty for what is of the whole cluster."""
        return str(self.metadata.get("namespace") or "")

    @property
    def where(self) -> str:
        """Kind, namespace and name for a message."""
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"

    @property
    def waivers(self) -> list[Waiver]:
        """The waivers among its annotations."""
        found = self.metadata.get("annotations") or {}
        waivers = []
        for key, reason in found.items():
            if key.startswith(PREFIX):
                rule, _, part = key.removeprefix(PREFIX).partition(".")
                waivers.append(Waiver(rule, part, str(reason)))
        return waivers


@dataclass(frozen=True)
class Waiver:
    """A rule that an object need not keep, and why; with a part, only that one."""

    rule: str
    part: str
    reason: str

    def covers(self, rule: str, finding: Finding) -> bool:
        """Whether it waives this finding of a rule."""
        same = not self.part or f"{finding.part}.".startswith(f"{self.part}.")
        return rule == self.rule and same

    @property
    def name(self) -> str:
        """Rule and part as the annotation names them."""
        return f"{self.rule}.{self.part}" if self.part else self.rule


@dataclass(frozen=True)
class Rule:
    """A rule over one object; `way_out` says what whoever breaks it can do."""

    name: str
    description: str
    way_out: str
    check: Callable[[Subject], Iterable[Finding]] = field(repr=False)


@dataclass(frozen=True)
class StackRule:
    """A rule over all objects of a stack together."""

    name: str
    description: str
    way_out: str
    check: Callable[[Sequence[Subject]], Iterable[tuple[Subject, Finding]]] = field(repr=False)


def broken(rule: Rule, subject: Subject) -> Iterator[Finding]:
    """What an object breaks of a rule and does not waive, and waivers that waive nothing."""
    for _, finding in _left(rule.name, [subject], [(subject, one) for one in rule.check(subject)]):
        yield finding


def broken_by_stack(
    rule: StackRule, subjects: Sequence[Subject]
) -> Iterator[tuple[Subject, Finding]]:
    """As `broken`, over a whole stack."""
    return _left(rule.name, subjects, list(rule.check(subjects)))


def _left(
    rule: str, subjects: Sequence[Subject], found: Sequence[tuple[Subject, Finding]]
) -> Iterator[tuple[Subject, Finding]]:
    for subject, finding in found:
        if not any(waiver.covers(rule, finding) for waiver in subject.waivers):
            yield subject, finding
    for subject in subjects:
        findings = [finding for of, finding in found if of is subject]
        for waiver in subject.waivers:
            if waiver.rule == rule and not any(waiver.covers(rule, one) for one in findings):
                yield subject, Finding(f"waiver {waiver.name} waives nothing", waivable=False)


def bad_waivers(subject: Subject, rules: Iterable[str]) -> Iterator[Finding]:
    """Waivers of an object without a reason, or of none of the rules."""
    known = [*rules, *LINTERS]
    for waiver in subject.waivers:
        if waiver.rule not in known:
            words = f"waiver {waiver.name}: no such rule; there are {', '.join(known)}"
            yield Finding(words, waivable=False)
        if waiver.rule in LINTERS and not _LINTERS_CHECK.fullmatch(waiver.name):
            yield Finding(f"waiver {waiver.name}: no name of a check", waivable=False)
        if len(waiver.reason.strip()) < SHORTEST_REASON:
            yield Finding(f"waiver {waiver.name} has no reason", waivable=False)


def selects(selector: Object | None, labels: Object) -> bool:
    """Whether a LabelSelector takes these labels; an empty one takes all, none takes nothing."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for one in selector.get("matchExpressions") or []:
        value, values = labels.get(one["key"]), one.get("values") or []
        held = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not held[one["operator"]]:
            return False
    return True


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a value with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from texts(item, f"{path}[{index}]")
