"""Alert rules about collection; promtool checks them in tests/contract."""

from __future__ import annotations

from typing import Any

from components.workload import alert

FILLED = 0.25
"""Share of the spool that is in use when a person must look."""
_HOUR_S = 3600


def collect_rules(name: str, namespace: str) -> list[dict[str, Any]]:
    """Alert rules of the bridge's own metrics (services/collect/metrics.py)."""
    pods = f'namespace="{namespace}", pod=~"{name}-[0-9]+"'
    used, most = f"collect_spool_bytes{{{pods}}}", f"collect_spool_limit_bytes{{{pods}}}"
    messages = f"rate(collect_messages_total{{{pods}"
    dead = ', result!~"taken|repeated|early"'
    return [
        alert(
            "CollectDown",
            f'(count(up{{{pods}, container="{name}"}} == 1) or vector(0)) == 0',
            "nobody takes what devices publish; they keep it, and send it again",
            for_s=60,
        ),
        alert(
            "CollectNotSubscribed",
            f"max(collect_mqtt_connected{{{pods}}}) == 0",
            "the bridge has no subscription at Mosquitto: see the log of its pod",
            for_s=60,
        ),
        alert(
            "CollectSpools",
            f"max(collect_spooling{{{pods}}}) == 1",
            "Kafka does not answer: readings are on the bridge's disk, and alarms wait for them",
            for_s=60,
            severity="warning",
        ),
        alert(
            "CollectSpoolFills",
            f"max({used} / {most}) > {FILLED}",
            "a quarter of the spool is used; when it is full, devices are not acknowledged any "
            "more: does Kafka answer?",
            for_s=30,
        ),
        alert(
            "CollectSpoolFullWithinAnHour",
            f"max(predict_linear(collect_spool_bytes{{{pods}}}[5m], {_HOUR_S}) > {most})",
            "as fast as the spool fills it is full within an hour: does Kafka answer?",
            for_s=120,
        ),
        alert(
            "CollectSpoolFull",
            f"max(collect_spool_full{{{pods}}}) == 1",
            "the spool has no room: devices keep what they measure, as long as they can",
            for_s=30,
        ),
        alert(
            "CollectSpoolDamaged",
            f"max(collect_spool_damaged{{{pods}}}) > 0",
            "a part of the spool cannot be read: readings that were acknowledged are missing; its "
            "files .damaged hold what is left",
            for_s=0,
        ),
        alert(
            "CollectMalformed",
            f"sum({messages}{dead}}}[10m])) > 0.01 * sum({messages}}}[10m]))",
            "more than 1 % of the messages cannot be read: topic sensors.dead says why",
            for_s=120,
            severity="warning",
        ),
        alert(
            "CollectGivenUp",
            f"sum(increase(collect_readings_given_up_total{{{pods}}}[15m])) > 0",
            "devices gave up readings that nobody had acknowledged: their memory was full",
            for_s=0,
            severity="warning",
        ),
    ]
