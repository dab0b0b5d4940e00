"""Every sample accounted for: exactly one receipt, and of what is stored exactly one image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rehearsal.drills.lake import Found, Receipt, Row
from rehearsal.samples import Sample

STATES = ("stored", "duplicate", "quarantined")
OUTCOMES = (*STATES, "missing", "twice")


@dataclass
class Account:
    """What became of the samples.

    `kinds` is kind of sample -> outcome -> how many; `expected` is state -> how many, where an
    image that the lake had before the run is no new one. `earlier` counts the duplicates of such.
    `reasons` are those of the quarantined. `wrong` says by name what is not as it must be.
    """

    sent: int
    expected: dict[str, int]
    found: dict[str, int]
    kinds: dict[str, dict[str, int]]
    reasons: dict[str, int]
    earlier: int
    wrong: dict[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing, twice, extra or otherwise than it must be."""
        return not self.wrong and self.found == self.expected

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**vars(self), "whole": self.whole}


def kind(sample: Sample) -> str:
    """What a sample is, by its name: new, turned, same, alike, or what is bad about it."""
    return sample.name.partition("-")[2].rpartition(".")[0]


def account(samples: Sequence[Sample], found: Found) -> Account:
    """Compare what was found with the samples' verdicts.

    Of a group one is stored and the others are duplicates of it; where the lake had an image before
    that looks the same, they are that one's, and then none need be stored.
    """
    return _Accounting(samples, found).done()


class _Accounting:
    def __init__(self, samples: Sequence[Sample], found: Found) -> None:
        self._samples = {one.name: one for one in samples}
        if len(self._samples) < len(samples):
            raise ValueError("two samples have one name")
        self._found = found
        self._receipts: dict[str, list[Receipt]] = defaultdict(list)
        for receipt in found.receipts:
            self._receipts[receipt.name].append(receipt)
        self._by_source = {one.source: one for one in found.receipts}
        self._named = {row.sha256: row for row in found.named}
        self._rows: dict[str, list[Row]] = defaultdict(list)
        for row in found.rows:
            self._rows[row.source].append(row)
        self._stored: dict[int, list[str]] = defaultdict(list)
        self._earlier: set[str] = set()
        self.wrong: dict[str, str] = {}

    def done(self) -> Account:
        """Look at everything."""
        outcomes = {name: self._outcome(one) for name, one in self._samples.items()}
        for group, names in self._stored.items():
            if len(names) > 1:
                self._all(names, f"{len(names)} of group {group} are stored")
        self._all(set(self._receipts) - set(self._samples), "has a receipt, and nobody sent it")
        for source, rows in self._rows.items():
            receipt = self._by_source.get(source)
            if receipt is None or receipt.state != "stored":
                said = "no receipt" if receipt is None else f"a receipt that says {receipt.state}"
                self._all([rows[0].name], f"is in the catalogue, with {said}")
        for row in self._found.rows:
            if row.sha256 in self._found.elsewhere:
                self._all([row.name], self._found.elsewhere[row.sha256])
        self._all(self._found.extra, "is left over")
        kinds: dict[str, Counter[str]] = defaultdict(Counter)
        for name, outcome in outcomes.items():
            kinds[kind(self._samples[name])][outcome] += 1
        counted = Counter(outcomes.values())
        reasons = Counter(
            one.reason for one in self._found.receipts if one.reason and one.name in self._samples
        )
        return Account(
            sent=len(self._samples),
            expected=self._expected(),
            found={state: counted[state] for state in STATES},
            kinds={name: dict(of) for name, of in sorted(kinds.items())},
            reasons={str(reason): number for reason, number in sorted(reasons.items())},
            earlier=len(self._earlier),
            wrong=self.wrong,
        )

    def _all(self, names: Iterable[str], what: str) -> None:
        for name in sorted(names):
            self.wrong.setdefault(name, f"{name} {what}")

    def _expected(self) -> dict[str, int]:
        good = [one for one in self._samples.values() if one.verdict == "good"]
        members: dict[int | None, list[str]] = defaultdict(list)
        for one in good:
            members[one.group].append(one.name)
        new = sum(not set(names) <= self._earlier for names in members.values())
        return {
            "stored": new,
            "duplicate": len(good) - new,
            "quarantined": len(self._samples) - len(good),
        }

    def _outcome(self, sample: Sample) -> str:
        receipts = self._receipts.get(sample.name, [])
        if not receipts:
            self._all([sample.name], "is missing: it has no receipt")
            return "missing"
        if len(receipts) > 1:
            sources = ", ".join(one.source for one in receipts)
            self._all([sample.name], f"has {len(receipts)} receipts: of {sources}")
            return "twice"
        problem = self._problem(sample, receipts[0])
        if problem is not None:
            self._all([sample.name], problem)
        return receipts[0].state

    def _problem(self, sample: Sample, receipt: Receipt) -> str | None:
        if receipt.sha256 != sample.sha256:
            return f"was received with other bytes: {receipt.sha256}"
        wanted = ("quarantined",) if sample.verdict == "quarantined" else ("stored", "duplicate")
        if receipt.state not in wanted or receipt.reason != sample.reason:
            said = _words(receipt.state, receipt.reason)
            return f"is {said}, not {_words(' or '.join(wanted), sample.reason)}"
        if receipt.state == "quarantined":
            return None
        assert sample.group is not None
        image = self._named.get(str(receipt.image))
        if image is None:
            return f"is {receipt.state} as {receipt.image}, which is not in the catalogue"
        if receipt.state == "stored":
            self._stored[sample.group].append(sample.name)
            rows = [row.sha256 for row in self._rows.get(receipt.source, [])]
            if rows != [receipt.image]:
                return f"is stored as {receipt.image}; the catalogue has {rows or 'nothing'} of it"
            return None
        original = self._by_source.get(image.source)
        if original is None:
            self._earlier.add(sample.name)
            return None
        of = self._samples.get(original.name)
        if of is None or of.group != sample.group:
            return f"is a duplicate of {original.name}, which is another image"
        return None


def _words(state: str, reason: str | None) -> str:
    return f"{state} ({reason})" if reason else state
