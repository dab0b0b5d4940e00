from __future__ import annotations

from typing import Any

import pytest

from rehearsal import journal, prove_hosts
from rehearsal.inside import Row
from rehearsal.kube import Object

ROW = "host.sockets"


def row(state: Any, detail: str = "") -> Row:
    return Row(ROW, "", state, detail)


GREEN = row("passed")
RED = row("failed", "undeclared: estate-proof/open-port: port 9999")


def test_a_row_that_named_its_pod_only_and_was_green_around_it_is_proven() -> None:
    proof = prove_hosts._proof(ROW, GREEN, RED, GREEN, 1.0, 2.0)
    assert not proof.error and proof.said == RED.detail


@pytest.mark.parametrize(
    ("before", "red", "after", "words"),
    [
        (RED, RED, GREEN, "red before anything was broken"),
        (GREEN, GREEN, GREEN, "cannot fail: passed"),
        (GREEN, row("failed", "undeclared: datalake/x: port 1"), GREEN, "cannot fail: failed"),
        (GREEN, row("failed", f"{RED.detail}, estate-proof/as-root"), GREEN, "cannot fail"),
        (GREEN, RED, RED, "not green again"),
    ],
)
def test_anything_else_is_no_proof(before: Row, red: Row, after: Row, words: str) -> None:
    proof = prove_hosts._proof(ROW, before, red, after, 1.0, 2.0)
    assert proof.error and words in proof.said


def test_each_pod_breaks_one_thing() -> None:
    _, _, *pods = prove_hosts._objects("image")
    specs = {pod["metadata"]["name"]: pod["spec"] for pod in pods}
    assert set(specs) == set(prove_hosts._BROKEN.values())
    as_root = [name for name, spec in specs.items() if spec["securityContext"]["runAsUser"] == 0]
    assert as_root == ["as-root"]
    assert [name for name, spec in specs.items() if spec["volumes"]] == ["open-file"]
    serving = [name for name, spec in specs.items() if "nc" in spec["containers"][0]["command"]]
    assert serving == ["open-port"]


class Api:
    """Keeps what it was asked to delete."""

    def __init__(self, there: bool) -> None:
        self.there, self.asked = there, list[str]()

    def path(self, *parts: str | None) -> str:
        return "/".join(part for part in parts if part)

    def get(self, path: str) -> Object | None:
        return {} if self.there else None

    def request(self, method: str, path: str) -> None:
        self.asked.append(f"{method} {path}")


@pytest.mark.parametrize(("there", "asked"), [(True, ["DELETE v1/Namespace/a"]), (False, [])])
def test_what_a_proof_made_is_deleted_also_when_it_was_killed(
    there: bool, asked: list[str]
) -> None:
    api: Any = Api(there)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
    journal.restore(api, journal.making(body))
    assert api.asked == asked
