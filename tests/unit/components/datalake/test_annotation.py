"""Annotation: what its CronJob is told, and who it may reach."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from pulumi.runtime.stack import wait_for_rpcs
from pydantic import ValidationError

from components.datalake.annotation import Annotation
from components.datalake.annotation_config import AnnotationConfig
from components.datalake.object_store import ObjectStore
from components.flows import OUTSIDE, Pods
from components.model import Image
from policies.model import Subject
from policies.rules import RULES
from rehearsal import paths
from services.annotation.settings import Settings
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

VALUES: dict[str, Any] = yaml.safe_load(
    (paths.root() / "tests" / "onprem-annotation.yaml").read_text(encoding="utf-8")
)
TOKEN = "token-of-the-test"
STORE = ObjectStore(
    host="s3.datalake.svc",
    port=443,
    target_port=8443,
    region="us-east-1",
    secrets={"annotation": "s3-annotation"},
    pods=Pods(name="ceph-rgw", namespace="datalake", selector={"app": "rgw"}),
    ready=(),
)


class Made:
    def __init__(self) -> None:
        self.recorder = Recorder()
        self.component: Annotation

    def get(self, kind: str) -> dict[str, Any]:
        objects: list[dict[str, Any]] = [plain(one) for one in self.recorder.made]
        (found,) = [one for one in objects if one["kind"] == kind]
        return found


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    side = Made()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pulumi.runtime.set_mocks(side.recorder, preview=False)
    side.component = Annotation(
        "annotation",
        AnnotationConfig.model_validate(VALUES),
        namespace="datalake",
        image=Image(repository="docker.io/estate/annotation", tag="1", digest="sha256:" + "a" * 64),
        store=STORE,
        token=pulumi.Output.secret(TOKEN),
    )
    loop.run_until_complete(wait_for_rpcs())
    loop.close()
    yield side


def test_the_service_takes_what_it_is_told(made: Made, tmp_path: Path) -> None:
    text = made.get("ConfigMap")["data"]["settings.json"]
    settings = Settings.model_validate(json.loads(text))
    assert settings.server.url == "https://supervisely.example.com:443"
    assert [one.name for one in settings.versions] == ["roads"]
    assert TOKEN not in text


def test_the_token_is_a_mounted_file_alone(made: Made) -> None:
    job = made.get("CronJob")
    assert TOKEN not in json.dumps(job)
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    secrets = [one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one]
    assert secrets == ["annotation-token", "s3-annotation"]


def test_runs_never_meet_and_end(made: Made) -> None:
    spec = made.get("CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 3000


def test_it_reaches_the_store_and_the_servers_port(made: Made) -> None:
    reached = {(flow.target if flow.target == OUTSIDE else "store", *flow.ports)
               for flow in made.component.flows}  # fmt: skip
    assert reached == {("store", 8443), (OUTSIDE, 443)}


def test_the_policies_hold(made: Made) -> None:
    subject = Subject(made.get("CronJob"), False)
    assert [(rule.name, str(found)) for rule in RULES for found in rule.check(subject)] == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"classes": VALUES["classes"] * 2}, "declared twice"),
        ({"classes": [{"name": "car", "shape": "line"}]}, "shape"),
        ({"host": "https://supervisely"}, "host"),
        ({"schedule": "hourly"}, "schedule"),
        ({"token": "plain"}, "token"),
    ],
)
def test_a_wrong_configuration_is_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        AnnotationConfig.model_validate(VALUES | values)
