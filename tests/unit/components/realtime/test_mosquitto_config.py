from __future__ import annotations

import json
from typing import Any

from components.realtime.mosquitto_config import (
    Acl,
    MosquittoConfig,
    acl_file,
    exporter_config,
    open_server_config,
    server_config,
)


def config() -> MosquittoConfig:
    def user(name: str, *acl: dict[str, str]) -> dict[str, Any]:
        return {"name": name, "password": {"file": f"m/{name}"}, "acl": list(acl)}

    return MosquittoConfig.model_validate(
        {
            "users": [
                user("device", {"topic": "sensors/#", "access": "write"}),
                user("verify", {"topic": "estate/verify", "access": "readwrite"}),
                user("exporter", {"topic": "$SYS/#", "access": "read"}),
            ]
        }
    )


def test_only_tls_and_known_users() -> None:
    lines = server_config(config()).splitlines()
    assert [line for line in lines if line.startswith("listener")] == ["listener 8883"]
    assert "allow_anonymous false" in lines
    assert "keyfile /mosquitto/tls/tls.key" in lines


def test_the_fault_of_the_password_check_opens_exactly_the_password() -> None:
    before, after = (
        set(text(config()).splitlines()) for text in (server_config, open_server_config)
    )
    assert before - after == {"allow_anonymous false", "password_file /mosquitto/auth/passwords"}
    assert after - before == {"allow_anonymous true"}


def test_each_user_has_its_own_topics() -> None:
    blocks = acl_file(config()).split("\n\n")
    assert blocks[0] == "user device\ntopic write sensors/#"
    assert acl_file(config(), {"device": []}).startswith("user device\n\nuser verify")
    assert "topic read x" in acl_file(config(), {"verify": [Acl(topic="x", access="read")]})


def test_the_exporter_reads_the_broker_by_its_certified_name() -> None:
    settings = json.loads(exporter_config("exporter", "mosquitto.realtime.svc.cluster.local"))
    assert settings["mqtt"]["server"] == "ssl://mosquitto.realtime.svc.cluster.local:8883"
    assert "password" not in settings["mqtt"]
    names = [metric["prom_name"] for metric in settings["metrics"]]
    assert "mosquitto_publish_dropped_total" in names
