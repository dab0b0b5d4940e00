"""The whole program with Amazon ECR as its registry, rendered under mocks."""

from __future__ import annotations

import copy
import inspect
import json

import pytest

from policies.model import broken, broken_by_stack
from policies.rules import RULES, STACK_RULES
from services.serving.settings import SyncSettings
from tests.rendering import ONPREM, Rendered, render_values
from tests.state.probes import find
from tests.unit.components.model_repository.test_config import ECR, ECR_VALUES

URL = "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com/estate"


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    values = copy.deepcopy(ONPREM)
    del values["backup"]  # of Nexus' blobs, among others
    values["model_repository"] = {**ECR_VALUES, "ecr": {**ECR, "prefix": "estate"}}
    return render_values("onprem", values)


def test_it_keeps_every_policy(rendered: Rendered) -> None:
    subjects = rendered.subjects()
    found = [
        f"{rule.name}: {one.where} {finding.message}"
        for rule in RULES
        for one in subjects
        for finding in broken(rule, one)
    ]
    found += [
        f"{rule.name}: {one.where} {finding.message}"
        for rule in STACK_RULES
        for one, finding in broken_by_stack(rule, subjects)
    ]
    assert not found


def test_serving_reads_from_it(rendered: Rendered) -> None:
    text = rendered.object("ConfigMap", "triton-cpu-stable-config")["data"]["settings.json"]
    registry = SyncSettings.model_validate(json.loads(text)).registry
    assert (registry.url, registry.ca) == (URL, None)
    pod = rendered.object("Deployment", "triton-cpu-stable")["spec"]["template"]["spec"]
    (volume,) = [one for one in pod["volumes"] if one["name"] == "registry"]
    assert volume["secret"]["secretName"] in rendered.names("Secret")


def test_its_check_can_be_asked_and_broken(rendered: Rendered) -> None:
    (check,) = [one for one in rendered.checks if one["id"] == "model-registry.token"]
    probe, target = find(check["probe"]), check["fault"]["target"]
    assert probe is not None
    inspect.signature(probe).bind(None, **check["args"])
    assert target["name"] in rendered.names(target["kind"])


def test_its_cron_job_s_age_is_exported(rendered: Rendered) -> None:
    roles = [one["metadata"] for one in rendered.objects("Role")]
    places = {one["namespace"] for one in roles if "state-metrics" in one["name"]}
    assert "serving" in places
