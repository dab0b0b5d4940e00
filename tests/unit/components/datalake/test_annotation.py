"""Annotation: what its service is told, whom it may reach, and what it needs declared."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs
from pydantic import ValidationError

from components.authority import Authority
from components.datalake.annotation import Annotation
from components.datalake.annotation_config import USER, AnnotationConfig
from components.datalake.object_store import ObjectStore
from components.flows import OUTSIDE, Pods
from components.model import Image
from configs.errors import ConfigError
from configs.schema import load
from policies import model
from rehearsal import paths
from services.annotation.settings import Settings
from tests.policies import broken
from tests.rendering import ONPREM
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

VALUES: dict[str, Any] = {
    **ONPREM["annotation"],
    "versions": [{"name": "roads", "digest": "0123456789abcdef" * 4}],
}
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

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [plain(one) for one in self.recorder.made]

    def get(self, kind: str) -> dict[str, Any]:
        (found,) = [one for one in self.objects if one["kind"] == kind]
        return found

    def pod(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("Deployment")["spec"]["template"]["spec"]
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
        authority=Authority(),
        monitors=[],
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
    others = [one for one in made.objects if one["metadata"]["name"] != "annotation-token"]
    assert len(others) == 7 and TOKEN not in json.dumps(others)
    secrets = [one["secret"]["secretName"] for one in made.pod()["volumes"] if "secret" in one]
    assert sorted(secrets) == ["annotation-tls", "annotation-token", "s3-annotation"]


def test_two_never_run_at_once(made: Made) -> None:
    spec = made.get("Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_it_is_scraped_by_the_name_in_its_certificate(made: Made) -> None:
    (endpoint,) = made.get("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] in made.get("Certificate")["spec"]["dnsNames"]
    (container,) = made.pod()["containers"]
    (port,) = container["ports"]
    assert port["name"] == endpoint["port"]
    told = json.loads(made.get("ConfigMap")["data"]["settings.json"])["serve"]
    assert told["port"] == port["containerPort"]


def test_it_reaches_the_store_and_the_servers_port(made: Made) -> None:
    flows = made.component.flows
    reached = {("store" if flow.target == STORE.pods else flow.target, *flow.ports)
               for flow in flows if flow.source == made.component.pods}  # fmt: skip
    assert reached == {("store", 8443), (OUTSIDE, 443)}
    assert [flow.ports for flow in flows if flow.target == made.component.pods] == [[9109]]


def test_what_it_makes_keeps_every_policy(made: Made) -> None:
    assert not broken(map(model.Subject, made.objects))


def test_the_fault_leads_to_no_server_and_nothing_else(made: Made) -> None:
    (check,) = made.component.checks
    now = json.loads(made.get("ConfigMap")["data"]["settings.json"])
    patched: Any = check.fault.patch["data"]
    broken = json.loads(patched["settings.json"])
    assert broken["server"].pop("url") != now["server"].pop("url")
    assert broken == now
    Settings.model_validate_json(patched["settings.json"])


def onprem(**changes: Any) -> dict[str, Any]:
    """The values of onprem with this annotation, some of Ceph's changed."""
    return {**ONPREM, "ceph": ONPREM["ceph"] | changes, "annotation": VALUES}


def test_what_it_needs_of_the_store_must_be_declared() -> None:
    ceph = onprem()["ceph"]
    assert load(onprem()).annotation is not None
    with pytest.raises(ConfigError, match=r"annotation: .* declare ceph too"):
        load({**onprem(), "ceph": None, "transfer": None, "pipeline": None})
    others = [one for one in ceph["users"] if one["name"] != USER]
    none = [{**one, "grants": []} for one in ceph["buckets"]]
    with pytest.raises(ConfigError) as found:
        load(onprem(users=others, buckets=none))
    said = "\n".join(found.value.lines)
    assert "user 'annotation' (annotation) is missing" in said
    assert "bucket 'datasets' lacks {user: annotation, access: write}" in said
    assert "bucket 'images' lacks {user: annotation, access: read}" in said


def test_a_rehearsal_cannot_have_it() -> None:
    values = load(paths.root() / "configs" / "Pulumi.local.yaml").model_dump()
    with pytest.raises(ConfigError, match="no Supervisely in a rehearsal"):
        load({**values, "annotation": VALUES})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"classes": VALUES["classes"] * 2}, "declared twice"),
        ({"classes": [{"name": "car", "shape": "line"}]}, "shape"),
        ({"host": "https://supervisely"}, "host"),
        ({"every_s": 5}, "every_s"),
        ({"token": "plain"}, "token"),
    ],
)
def test_a_wrong_configuration_is_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        AnnotationConfig.model_validate(VALUES | values)
