"""Annotation, which no rehearsal has: whole, and every waiver of it needed."""

from __future__ import annotations

import pytest

from policies.model import Subject
from tests.rendering import Rendered, render

ENVIRONMENT = "onprem"


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return render(ENVIRONMENT)


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
