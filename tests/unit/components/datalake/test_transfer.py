"""Image transfer: what is refused, what it makes, and what its faults change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs
from pydantic import ValidationError

from components.authority import Authority
from components.datalake.kafka import Kafka
from components.datalake.kafka_config import KafkaConfig
from components.datalake.object_store import ObjectStore
from components.datalake.transfer import Transfer
from components.datalake.transfer_config import TransferConfig
from components.datalake.transfer_files import settings, tusd_start
from components.datalake.transfer_proxy import haproxy_cfg
from components.flows import Pods
from components.model import Image
from policies import model
from services.transfer.settings import Settings
from tests.policies import broken
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

PASSWORD = "transfer-secret-value"
STORE = ObjectStore(
    host="s3.datalake.svc.cluster.local",
    port=443,
    target_port=8443,
    region="us-east-1",
    secrets={"transfer": "s3-transfer"},
    pods=Pods(name="s3", namespace="datalake", selector={"app": "s3"}),
    ready=(),
)


def image(key: str) -> Image:
    return Image(repository=f"registry.example/{key}", tag="1", digest="sha256:" + "a" * 64)


class Made:
    """The objects of the component, and the component."""

    def __init__(self) -> None:
        recorder = Recorder()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        pulumi.runtime.set_mocks(recorder, preview=False)
        users = ("transfer", "verify")
        kafka = Kafka(
            "kafka",
            KafkaConfig.model_validate(
                {
                    "cluster_id": "ZXN0YXRlLXJlaGVhcnNhbA",
                    "topics": [{"name": "estate.verify"}],
                    "users": [{"name": one, "password": {"file": f"k/{one}"}} for one in users],
                }
            ),
            namespace="datalake",
            image=image("kafka"),
            admin_image=image("admin"),
            authority=Authority(),
            passwords={one: pulumi.Output.secret(PASSWORD) for one in users},
        )
        self.component = Transfer(
            "transfer",
            TransferConfig(),
            namespace="datalake",
            proxy_image=image("haproxy"),
            tusd_image=image("tusd"),
            image=image("transfer"),
            store=STORE,
            kafka=kafka,
            authority=Authority(),
            monitors=[],
        )
        loop.run_until_complete(wait_for_rpcs())
        loop.close()
        self.objects: list[dict[str, Any]] = [plain(item) for item in recorder.made]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{len(found)} objects are {kind}/{name}"
        return found[0]


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    yield Made()


def test_what_it_makes_keeps_every_policy(made: Made) -> None:
    own = [one for one in made.objects if one["metadata"]["name"].startswith("transfer")]
    assert len(own) >= 10
    subjects = [model.Subject(one) for one in own]
    assert not broken(subjects)


def test_no_pod_is_given_the_key_that_signs_tokens(made: Made) -> None:
    volumes = made.get("StatefulSet", "transfer")["spec"]["template"]["spec"]["volumes"]
    (tokens,) = [one for one in volumes if one["name"] == "tokens"]
    assert [item["key"] for item in tokens["secret"]["items"]] == ["tls.crt"]


def test_secrets_are_files(made: Made) -> None:
    own = [one for one in made.objects if one["metadata"]["name"].startswith("transfer")]
    assert PASSWORD not in json.dumps(own)
    (volume,) = [
        one
        for one in made.get("StatefulSet", "transfer")["spec"]["template"]["spec"]["volumes"]
        if one["name"] == "s3"
    ]
    assert volume["secret"]["secretName"] == "s3-transfer"


def test_the_service_understands_its_settings() -> None:
    read = Settings.model_validate_json(settings(TransferConfig(), STORE, "kafka:9093"))
    assert (read.bucket, read.endpoint) == ("images-incoming", STORE.endpoint)


def test_every_fault_changes_what_it_patches(made: Made) -> None:
    for check in made.component.checks:
        for key, text in (check.fault.patch.get("data") or {}).items():  # type: ignore[union-attr]
            now = made.get("ConfigMap", check.fault.target.name)["data"][key]
            assert now != text, f"{check.id} patches nothing"


def test_the_certificate_has_the_names_that_peers_ask_for(made: Made) -> None:
    names = made.get("Certificate", "transfer-tls")["spec"]["dnsNames"]
    text = made.get("ConfigMap", "transfer-proxy")["data"]["haproxy.cfg"]
    for ordinal in range(2):
        name = f"transfer-{ordinal}.transfer-pods.datalake.svc.cluster.local"
        assert name in names
        assert f"verifyhost {name}" in text


def test_a_server_for_each_replica_its_own_without_a_detour() -> None:
    text = haproxy_cfg(TransferConfig(replicas=3), "transfer", "pods", "lake")
    for ordinal in range(3):
        assert text.count(f'.if streq("$HOSTNAME","transfer-{ordinal}")') == 1
        assert text.count(f"server transfer-{ordinal} 127.0.0.1:1080 id {ordinal + 1} ") == 1
        assert f"use-server transfer-{ordinal} if {{ var(txn.home) -m str {ordinal} }}" in text
    assert "jwt_verify" not in haproxy_cfg(TransferConfig(), "t", "p", "d", verified=False)


def test_tusd_is_told_nothing_secret() -> None:
    text = tusd_start(TransferConfig(), STORE)
    assert "-disable-termination" in text and "-disable-download" in text
    assert "/transfer/s3/secret-key" in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_mib": 3000}, "at most upload_mib"),
        ({"megapixels": 900}, "to decode an image of 900 megapixels"),
        ({"buffer": "memory"}, "the buffer is memory"),
        ({"part_mib": 4}, "part_mib"),
    ],
)
def test_what_does_not_fit_together_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TransferConfig.model_validate(values)
