from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from components.monitoring.alertmanager import configuration
from components.monitoring.config import AlertmanagerConfig, PrometheusConfig
from components.monitoring.prometheus import spec
from components.monitoring.rules import rules
from tests.unit.components.datalake.test_postgres_resources import IMAGES

HOOK = {"name": "console", "url": "https://console.example/alerts", "severities": ["critical"]}


def test_without_a_webhook_alerts_go_to_nobody() -> None:
    made = json.loads(configuration(AlertmanagerConfig()))
    assert made["route"]["receiver"] == "nobody"
    assert made["receivers"] == [{"name": "nobody"}]


def test_a_webhook_gets_its_severities_and_resolutions_but_not_the_watchdog() -> None:
    made = json.loads(configuration(AlertmanagerConfig.model_validate({"webhooks": [HOOK]})))
    first, second = made["route"]["routes"]
    assert first == {"receiver": "nobody", "matchers": ['alertname="Watchdog"']}
    assert second["receiver"] == "console"
    assert second["matchers"] == ['severity=~"critical"']
    assert made["receivers"][1]["webhook_configs"] == [
        {"url": "https://console.example/alerts", "send_resolved": True}
    ]


@pytest.mark.parametrize("hooks", [[HOOK, HOOK], [{**HOOK, "name": "nobody"}]])
def test_a_receiver_declared_twice_is_refused(hooks: list[dict[str, object]]) -> None:
    with pytest.raises(ValidationError, match="declared twice"):
        AlertmanagerConfig.model_validate({"webhooks": hooks})


def test_prometheus_drops_old_data_before_its_claim_is_full() -> None:
    made = spec(
        PrometheusConfig.model_validate({"storage": {"size_gib": 10}}),
        IMAGES["prometheus"],
        "prometheus",
        alertmanager="alertmanager",
        namespace="monitoring",
        spread="prefer",
    )
    assert made["retentionSize"] == "8704MiB"
    claim = made["storage"]["volumeClaimTemplate"]["spec"]
    assert claim["resources"]["requests"]["storage"] == "10Gi"
    assert "storageClassName" not in claim
    assert made["version"] == "v3.13.1"
    assert made["alerting"]["alertmanagers"][0]["tlsConfig"]["serverName"] == (
        "alertmanager.monitoring.svc.cluster.local"
    )


def test_every_rule_says_what_to_look_at_and_names_are_unique() -> None:
    found = rules("monitoring")
    assert len({rule["alert"] for rule in found}) == len(found)
    assert all(rule["annotations"]["summary"] for rule in found)
    assert found[0]["alert"] == "Watchdog"
