"""Which objects of the program go with their namespace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from typing import Any

import pytest

from components.platform.release import is_custom
from tests.rendering import ROOT

PROGRAM = """
import json, sys
from pulumi.runtime import mocks
from stacks import lifetimes
from tests import rendering

holders = []
register = mocks.MockMonitor.RegisterResource

def noted(self, request):
    answer = register(self, request)
    holders.append([request.type, request.name, answer.urn, request.deletedWith])
    return answer

mocks.MockMonitor.RegisterResource = noted
whole = rendering.compose

def compose(context):
    lifetimes.register()
    whole(context)

rendering.compose = compose
found = rendering._run(sys.argv[1])
json.dump([found["resources"], holders], sys.stdout)
"""

SPACES = {"platform", "datalake", "realtime", "monitoring"}
Holders = dict[tuple[str, str], tuple[dict[str, Any], str]]


def program(environment: str) -> Holders:
    """Body and holder (a namespace, or nothing) of each registered object, by type and name."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, environment],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    resources, holders = json.loads(done.stdout)
    bodies = {(kind, name): body for kind, name, body in resources}
    urns = {urn: name for kind, name, urn, _ in holders if kind.endswith(":Namespace")}
    return {
        (kind, name): (bodies[kind, name], urns.get(holder, holder))
        for kind, name, _, holder in holders
        if kind.startswith("kubernetes:")
    }


@pytest.fixture(scope="module")
def local() -> Holders:
    return program("local")


def test_objects_go_with_the_namespace_that_they_are_in(local: Holders) -> None:
    kinds = defaultdict(set)
    for body, holder in local.values():
        space = body["metadata"].get("namespace")
        if space in SPACES and not is_custom(body["apiVersion"]):
            assert holder == space, (body["kind"], body["metadata"]["name"])
            kinds[holder].add(body["kind"])
    assert set(kinds) == SPACES
    assert {"Deployment", "ConfigMap", "Service"} <= kinds["platform"]


def test_custom_resources_and_what_is_in_no_namespace_go_by_themselves(local: Holders) -> None:
    alone = [body for body, holder in local.values() if not holder]
    kinds = {body["kind"] for body in alone}
    assert {"Namespace", "CustomResourceDefinition", "ClusterRole", "Cluster"} <= kinds
    for body in alone:
        ours = body["metadata"].get("namespace") in SPACES
        assert not ours or is_custom(body["apiVersion"]), body["metadata"]


def test_a_protected_namespace_takes_nothing_with_it() -> None:
    assert {holder for _, holder in program("onprem").values()} == {""}
