"""Collection as it is declared: what the bridge is told, whom it reaches, what it needs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from components.realtime.collect_config import CollectConfig
from components.realtime.mosquitto_config import MosquittoConfig, acl_file
from configs.errors import ConfigError
from configs.schema import load
from rehearsal import paths
from services.collect.settings import Settings
from tests.rendering import ONPREM, Rendered, render

ENVIRONMENTS = ("local", "onprem")


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return render(request.param)


def test_the_bridge_takes_what_it_is_told(rendered: Rendered) -> None:
    text = rendered.object("ConfigMap", "collect-config")["data"]["settings.json"]
    settings = Settings.model_validate_json(text)
    assert settings.mqtt.host == "mosquitto.realtime.svc.cluster.local"
    assert settings.kafka.tail >= settings.window


def test_there_is_one_bridge_with_a_claim(rendered: Rendered) -> None:
    spec = rendered.object("StatefulSet", "collect")["spec"]
    assert spec["replicas"] == 1
    (claim,) = spec["volumeClaimTemplates"]
    size = claim["spec"]["resources"]["requests"]["storage"]
    text = rendered.object("ConfigMap", "collect-config")["data"]["settings.json"]
    assert json.loads(text)["spool"]["limit_mib"] < int(size.removesuffix("Gi")) * 1024


def test_it_is_scraped_by_the_name_in_its_certificate(rendered: Rendered) -> None:
    (endpoint,) = rendered.object("PodMonitor", "collect")["spec"]["podMetricsEndpoints"]
    names = rendered.object("Certificate", "collect-tls")["spec"]["dnsNames"]
    assert endpoint["tlsConfig"]["serverName"] in names


def test_each_fault_takes_one_thing_away(rendered: Rendered) -> None:
    checks = {check["id"]: check["fault"]["patch"]["data"] for check in rendered.checks
              if check["id"].startswith("collect.")}  # fmt: skip
    now = json.loads(rendered.object("ConfigMap", "collect-config")["data"]["settings.json"])
    broken = json.loads(checks["collect.round-trip"]["settings.json"])
    assert broken["kafka"].pop("bootstrap") != now["kafka"].pop("bootstrap")
    assert broken == now
    rules = rendered.object("ConfigMap", "mosquitto-config")["data"]["acl"].splitlines()
    mute = checks["collect.dead-letter"]["acl"].splitlines()
    assert [line for line in rules if line not in mute] == ["topic write sensors/+/ack"]


def test_a_device_has_its_own_topics_alone() -> None:
    config = MosquittoConfig.model_validate(ONPREM["mosquitto"])
    blocks = {
        block.splitlines()[0]: block.splitlines()[1:]
        for block in acl_file(config).split("\n\n")[:-1]
    }
    assert blocks["user press-1"] == [
        "topic write sensors/press-1/readings",
        "topic read sensors/press-1/ack",
    ]
    assert blocks["user collect"] == [
        "topic read sensors/+/readings",
        "topic write sensors/+/ack",
    ]
    # Nobody else writes readings.
    for environment in ENVIRONMENTS:
        file = paths.root() / "configs" / f"Pulumi.{environment}.yaml"
        mosquitto = load(file).mosquitto
        assert mosquitto is not None
        for user in mosquitto.users:
            for rule in user.acl:
                assert rule.access == "read" or rule.topic.split("/")[-1] not in ("#", "readings")


def test_everyones_password_is_a_secret_of_the_broker(rendered: Rendered) -> None:
    names = rendered.names("Secret")
    assert {"mosquitto-verify-sensor", "mosquitto-collect", "collect-kafka"} <= set(names)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda v: v["mosquitto"]["users"].pop(0),
            "user 'collect' lacks {topic: sensors/+/readings, access: read}",
        ),
        (
            lambda v: v["mosquitto"]["users"][0]["acl"].pop(1),
            "user 'collect' lacks {topic: sensors/+/ack, access: write}",
        ),
        (
            lambda v: v["mosquitto"]["devices"].pop(),
            "device 'verify-sensor' (checks of collection)",
        ),
        (
            lambda v: v["mosquitto"]["devices"].append(v["mosquitto"]["devices"][0]),
            "mosquitto.devices.3.name",
        ),
        (
            lambda v: v["kafka"].update(
                topics=[one for one in v["kafka"]["topics"] if one["name"] != "sensors.dead"],
                users=[one for one in v["kafka"]["users"] if one["name"] != "collect"],
            ),
            "topic 'sensors.dead' (collection) is missing",
        ),
        (lambda v: v.pop("mosquitto"), "collect: 'declared' is not allowed: it stands between"),
    ],
)
def test_what_it_needs_is_named(change: Callable[[dict[str, Any]], object], expected: str) -> None:
    values = copy.deepcopy(ONPREM)
    change(values)
    with pytest.raises(ConfigError) as found:
        load(values)
    assert any(expected in line for line in found.value.lines), found.value.lines


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"spool_mib": 2048}, "spool_mib"),
        ({"tail": 100}, "at least window"),
        ({"receive_maximum": 0}, "receive_maximum"),
    ],
)
def test_a_wrong_configuration_is_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        CollectConfig.model_validate(values)


def test_local_asks_for_little() -> None:
    file = paths.root() / "configs" / "Pulumi.local.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))["config"]["estate:environment"]
    assert values["collect"]["resources"]["cpu_request_m"] <= 20
