"""Probes of Prometheus and Alertmanager: they compare what is declared with what runs."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.state.probes import ProbeContext, probe

GROUP, VERSION = "monitoring.coreos.com", "v1"
Secret = Mapping[str, Any]


def _call(
    ctx: ProbeContext, ca: Secret, url: str, body: Any = None, *, timeout_s: float = 10.0
) -> Any:
    """JSON from an endpoint whose certificate the estate's CA signed."""
    context = ssl.create_default_context(cadata=ctx.secret(ca).decode())
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as response:
            text = response.read()
    except urllib.error.URLError as error:
        raise AssertionError(f"{url.split('?')[0]}: {error}") from None
    except OSError as error:
        raise AssertionError(f"{url.split('?')[0]}: {error}") from None
    return json.loads(text) if text else None


def _declared(
    ctx: ProbeContext, plural: str, namespaces: list[str], labels: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    selector = ",".join(f"{key}={value}" for key, value in labels.items())
    for namespace in namespaces:
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{plural}"
        yield from ctx.api.request("GET", path, query={"labelSelector": selector})["items"]


@probe("prometheus_targets")
def prometheus_targets(
    ctx: ProbeContext,
    *,
    url: str,
    ca: Secret,
    namespaces: list[str],
    labels: dict[str, str],
) -> str:
    """Every endpoint of every monitor has a target, and PromQL says `up` is 1 for all of them."""
    pools: list[str] = []
    for plural, prefix, key in (
        ("podmonitors", "podMonitor", "podMetricsEndpoints"),
        ("servicemonitors", "serviceMonitor", "endpoints"),
    ):
        for item in _declared(ctx, plural, namespaces, labels):
            name = f"{prefix}/{item['metadata']['namespace']}/{item['metadata']['name']}"
            pools += [f"{name}/{index}" for index in range(len(item["spec"][key]))]
    assert pools, f"no monitor with {labels} in {', '.join(namespaces)}"
    answer = _call(ctx, ca, f"{url}/api/v1/targets?state=active")
    targets: dict[str, list[Mapping[str, Any]]] = {}
    for target in answer["data"]["activeTargets"]:
        targets.setdefault(target["scrapePool"], []).append(target)
    missing = [pool for pool in pools if not targets.get(pool)]
    assert not missing, f"no target for {', '.join(missing)}"
    failing = [
        f"{target['labels'].get('pod', target['scrapeUrl'])} ({target['lastError']})"
        for pool in pools
        for target in targets[pool]
        if target["health"] != "up"
    ]
    assert not failing, f"not up: {'; '.join(failing)}"
    count = sum(len(targets[pool]) for pool in pools)
    up = _query(ctx, ca, url, "count(up == 1)")
    assert up >= count, f"PromQL: {up:.0f} targets are up, {count} expected"
    down = _query(ctx, ca, url, "count(up == 0) or vector(0)")
    assert down == 0, f"PromQL: {down:.0f} targets are down"
    return f"{count} targets of {len(pools)} monitors up"


def _query(ctx: ProbeContext, ca: Secret, url: str, expression: str) -> float:
    query = urllib.parse.urlencode({"query": expression})
    answer = _call(ctx, ca, f"{url}/api/v1/query?{query}")
    result = answer["data"]["result"]
    return float(result[0]["value"][1]) if result else 0.0


@probe("prometheus_rules")
def prometheus_rules(
    ctx: ProbeContext,
    *,
    url: str,
    ca: Secret,
    namespaces: list[str],
    labels: dict[str, str],
) -> str:
    """Every alert of every PrometheusRule is loaded and has been evaluated without an error."""
    declared = {
        (group["name"], rule["alert"])
        for item in _declared(ctx, "prometheusrules", namespaces, labels)
        for group in item["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert declared, f"no PrometheusRule with {labels} in {', '.join(namespaces)}"
    groups = _call(ctx, ca, f"{url}/api/v1/rules?type=alert")["data"]["groups"]
    loaded = {(group["name"], rule["name"]): rule for group in groups for rule in group["rules"]}
    missing = sorted(f"{group}/{name}" for group, name in declared - set(loaded))
    assert not missing, f"not loaded: {', '.join(missing)}"
    broken = [
        f"{group}/{name}: {loaded[group, name].get('lastError', '')}"
        for group, name in sorted(declared)
        if loaded[group, name]["health"] == "err"
    ]
    assert not broken, f"cannot be evaluated: {'; '.join(broken)}"
    firing = sorted(name for (_, name), rule in loaded.items() if rule["state"] == "firing")
    assert "Watchdog" in firing, "the alert that always fires does not"
    return f"{len(declared)} alerts loaded, firing: {', '.join(firing)}"


@probe("alertmanager_alert")
def alertmanager_alert(ctx: ProbeContext, *, url: str, ca: Secret) -> str:
    """Hand over an alert and find it in the list; it is resolved afterwards."""
    token = uuid.uuid4().hex
    now = datetime.now(UTC)
    alert = {
        "labels": {"alertname": "EstateVerify", "severity": "none", "token": token},
        "annotations": {"summary": "test alert of `estate verify`"},
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(minutes=5)).isoformat(),
    }
    started = time.monotonic()
    _call(ctx, ca, f"{url}/api/v2/alerts", [alert])
    query = urllib.parse.urlencode({"filter": f'token="{token}"'})
    deadline = started + 10
    while not (found := _call(ctx, ca, f"{url}/api/v2/alerts?{query}")):
        assert time.monotonic() < deadline, "the alert was accepted and is not listed after 10 s"
        time.sleep(0.2)
    elapsed_ms = (time.monotonic() - started) * 1000
    assert found[0]["status"]["state"] in ("active", "unprocessed"), found[0]["status"]
    resolved = {**alert, "endsAt": datetime.now(UTC).isoformat()}
    _call(ctx, ca, f"{url}/api/v2/alerts", [resolved])
    return f"accepted and listed in {elapsed_ms:.0f} ms"
