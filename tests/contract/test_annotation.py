"""Annotation keeps every policy, though no environment has it before its image has a digest."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from configs import versions
from policies import model
from policies.model import Subject
from policies.rules import RULES, STACK_RULES
from tests import linters
from tests.contract.test_linters import NOWHERE, TOOLS, waived_in_place
from tests.rendering import Rendered, render
from tests.state.probes import find

ENVIRONMENT = "onprem+ceph+annotation"


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return render(ENVIRONMENT)


def test_every_object_keeps_every_policy(rendered: Rendered) -> None:
    subjects = rendered.subjects()
    found = [
        f"{rule.name}: {one.where} {finding.part}: {finding.message}"
        for one in subjects
        for rule in RULES
        for finding in model.broken(rule, one)
    ]
    found += [
        f"{rule.name}: {one.where} {finding.part}: {finding.message}"
        for rule in STACK_RULES
        for one, finding in model.broken_by_stack(rule, subjects)
    ]
    assert not found
    names = [rule.name for rule in (*RULES, *STACK_RULES)]
    assert not [bad.message for one in subjects for bad in model.bad_waivers(one, names)]


def own(rendered: Rendered) -> list[Subject]:
    """The objects of annotation itself."""
    names = ("annotation", "annotation-config", "annotation-token", "annotation-tls")
    return [one for one in rendered.subjects() if one.namespace == "datalake" and one.name in names]


def test_it_is_declared_as_a_whole(rendered: Rendered) -> None:
    assert sorted(one.kind for one in own(rendered)) == [
        *("Certificate", "ConfigMap", "Deployment", "NetworkPolicy", "PodMonitor"),
        *("PrometheusRule", "Secret", "Service", "ServiceAccount"),
    ]
    assert "dashboard-annotation" in rendered.names("ConfigMap")
    (pods,) = [one for one in rendered.expected_pods if one["name"] == "annotation"]
    assert pods["count"] == 1


def test_its_objects_keep_their_schemas(rendered: Rendered, tmp_path: Path) -> None:
    folder = tmp_path / "schemas"
    folder.mkdir()
    linters.schemas(rendered.objects("CustomResourceDefinition"), folder)
    bodies = [one.body for one in own(rendered)]
    assert not linters.kubeconform(linters.written(bodies, tmp_path), folder)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_complaint_is_waived_and_every_waiver_needed(
    tool: str, rendered: Rendered, tmp_path: Path
) -> None:
    of = {one.where: one for one in own(rendered)}
    found = TOOLS[tool](linters.written([one.body for one in of.values()], tmp_path))
    left = [one for one in found if one.check not in NOWHERE[tool]]
    assert not [one for one in left if not waived_in_place(tool, of, one)]
    waived = {w.part for one in of.values() for w in one.waivers if w.rule == tool}
    assert waived == {one.check for one in left}


def test_the_probe_of_its_check_takes_the_arguments(rendered: Rendered) -> None:
    (check,) = [one for one in rendered.checks if one["id"] == "annotation.run"]
    probe = find(check["probe"])
    assert probe is not None
    inspect.signature(probe).bind(None, **check["args"])


def test_it_is_left_out_of_what_pulls_until_its_image_has_a_digest() -> None:
    """Who publishes the image moves tests/onprem-annotation.yaml into Pulumi.onprem.yaml."""
    pinned = set(versions.upstream())
    assert "estate_annotation" not in pinned, "declare annotation in Pulumi.onprem.yaml"
    assert "annotation" not in render("onprem").names("Deployment")
