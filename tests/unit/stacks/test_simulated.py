"""What the program declares where every node is simulated."""

from __future__ import annotations

import base64
import copy
import json
import os
import subprocess
import sys
from typing import Any

import pulumi
import pytest

from stacks import simulated
from tests.rendering import ROOT, Rendered, render

PROGRAM = """
import json, sys
from stacks import simulated
from tests import rendering
whole = rendering.compose
def compose(context):
    simulated.register()
    whole(context)
rendering.compose = compose
json.dump(rendering._run("local"), sys.stdout)
"""


def rendered(value: str) -> Rendered:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, simulated.VARIABLE: value},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Rendered(**json.loads(done.stdout))


@pytest.fixture(scope="module")
def program() -> Rendered:
    return rendered("1")


def key(body: dict[str, Any]) -> tuple[str, str, str]:
    metadata = body["metadata"]
    return body["kind"], metadata.get("namespace", ""), metadata["name"]


def notes(body: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = body["metadata"].get("annotations") or {}
    return found


def test_everything_is_declared_all_the_same(program: Rendered) -> None:
    real, here = render("local"), program
    stand_in = ("Secret", "platform", "estate-ca")
    assert {key(body) for body in here.objects()} - {stand_in} == {
        key(body) for body in real.objects()
    }
    assert here.checks == real.checks
    workloads = ("Deployment", "StatefulSet", "Job", "CustomResourceDefinition", "ConfigMap")
    for kind in workloads:
        assert here.names(kind) == real.names(kind)
    for body in real.objects("Deployment", "StatefulSet"):
        name = body["metadata"]["name"]
        assert pods(here.object(body["kind"], name)) == pods(body), name


def pods(body: dict[str, Any]) -> dict[str, Any]:
    """The spec, without the digest of the authority: here something stands in for that."""
    spec: dict[str, Any] = copy.deepcopy(body["spec"])
    (spec["template"]["metadata"].get("annotations") or {}).pop("estate.dev/trust", None)
    return spec


def test_no_webhook_is_registered(program: Rendered) -> None:
    hooks = program.objects("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
    assert len(hooks) >= 4
    assert all(hook["webhooks"] == [] for hook in hooks)


def test_what_would_answer_for_kinds_of_its_own_is_asked_by_nobody() -> None:
    """An APIService whose Service has no pods fails the discovery of all kinds."""
    service = {"name": "keda-metrics-apiserver", "namespace": "autoscaling"}
    spec = {"group": "external.metrics.k8s.io", "service": service, "caBundle": "Q0E="}
    found = simulated.transform(
        pulumi.ResourceTransformationArgs(
            resource=pulumi.Resource.__new__(pulumi.Resource),
            type_="kubernetes:apiregistration.k8s.io/v1:APIService",
            name="a",
            props={"kind": "APIService", "metadata": {"name": "a"}, "spec": spec},
            opts=pulumi.ResourceOptions(),
        )
    )
    assert found is not None and found.props["spec"] == {"group": "external.metrics.k8s.io"}
    assert notes({"metadata": found.props["metadata"]})["pulumi.com/skipAwait"] == "true"


def test_nothing_waits_for_an_operator(program: Rendered) -> None:
    custom = program.objects("Certificate", "ClusterIssuer", "Cluster", "Prometheus", "PodMonitor")
    assert {body["kind"] for body in custom} >= {"Certificate", "Cluster", "Prometheus"}
    for body in custom:
        assert notes(body)["pulumi.com/skipAwait"] == "true"
        assert "pulumi.com/waitFor" not in notes(body)
    real = render("local").object("Certificate", "estate-ca")
    assert notes(real)["pulumi.com/waitFor"] == "condition=Ready"


def test_what_the_control_plane_answers_for_is_awaited(program: Rendered) -> None:
    for body in program.objects("CustomResourceDefinition"):
        assert notes(body)["pulumi.com/waitFor"] == "condition=Established"
    for body in program.objects("Deployment", "StatefulSet"):
        assert notes(body).get("pulumi.com/skipAwait") == notes(
            render("local").object(body["kind"], body["metadata"]["name"])
        ).get("pulumi.com/skipAwait")


def test_a_stand_in_takes_the_place_of_the_authoritys_secret(program: Rendered) -> None:
    secret = program.object("Secret", "estate-ca")
    value = secret["data"]["tls.crt"]
    assert base64.b64decode(value).decode() == simulated.STAND_IN


def test_without_the_variable_nothing_changes() -> None:
    def listed(program: Rendered) -> list[str]:
        # As a set: what is registered first is decided anew by every run.
        return sorted(json.dumps(resource, sort_keys=True) for resource in program.resources)

    assert listed(rendered("0")) == listed(render("local"))
