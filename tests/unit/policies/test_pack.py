"""What the pack makes of a rule: the message, and the environment's waivers."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies import pack
from policies.model import Finding, Subject
from policies.rules import by_name

SUBJECT = Subject(
    {"kind": "Deployment", "metadata": {"namespace": "realtime", "name": "mosquitto"}}
)


def test_a_message_says_where_what_and_both_ways_out() -> None:
    said = pack.message(by_name("probes"), SUBJECT, Finding("no liveness probe", "exporter"))
    assert said == (
        "Deployment realtime/mosquitto, exporter: no liveness probe; declare both; a program "
        "without an endpoint can be asked by command; or annotate it, "
        "policy.estate.dev/waive.probes.exporter: <the reason>"
    )
    unused = Finding("waiver probes waives nothing", waivable=False)
    assert pack.message(by_name("probes"), SUBJECT, unused) == (
        "Deployment realtime/mosquitto: waiver probes waives nothing; remove it"
    )


def test_the_stack_of_a_urn_finds_the_environments_waivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "CONFIGS", tmp_path)
    pack.waived_everywhere.cache_clear()
    (tmp_path / "Pulumi.here.yaml").write_text(
        "config:\n  estate:environment:\n    waivers: {probes: because of the test}\n"
    )
    (tmp_path / "Pulumi.bare.yaml").write_text("encryptionsalt: x\n")
    stack = pack._stack("urn:pulumi:here::estate::kubernetes:core/v1:Namespace::space")
    assert pack.waived_everywhere(stack) == {"probes": "because of the test"}
    assert pack.waived_everywhere("bare") == {}
    assert pack.waived_everywhere("elsewhere") == {}
    pack.waived_everywhere.cache_clear()
