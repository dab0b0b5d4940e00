"""Ceph by Rook keeps every policy, though no environment has it before its images have digests."""

from __future__ import annotations

import pytest

from configs import versions
from policies import model
from policies.rules import RULES, STACK_RULES
from tests.rendering import Rendered, render

ENVIRONMENT = "onprem+ceph"
UNPINNED = {"rook_operator", "cephcsi"}


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return render(ENVIRONMENT)


def test_every_object_keeps_every_policy(rendered: Rendered) -> None:
    subjects = rendered.subjects()
    assert {"CephCluster", "CephObjectStore"} <= {one.kind for one in subjects}
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


def test_one_namespace_alone_is_privileged(rendered: Rendered) -> None:
    levels = {
        body["metadata"]["name"]: body["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for body in rendered.objects("Namespace")
    }
    assert {name for name, level in levels.items() if level != "restricted"} == {"storage"}
    assert "storage" not in render("onprem").names("Namespace")


def test_it_is_left_out_of_what_pulls_until_its_images_have_digests() -> None:
    """Who finds the digests moves tests/onprem-ceph.yaml into Pulumi.onprem.yaml."""
    pinned = set(versions.upstream())
    assert not pinned & UNPINNED, "the digests are known: declare Ceph in Pulumi.onprem.yaml"
    assert not render("onprem").objects("CephCluster")
