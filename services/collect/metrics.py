"""What Prometheus may know of the bridge."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from services.collect.core import Bridge, Counts
from services.collect.spool import Spool

MESSAGES = Counter(
    "collect_messages",
    "MQTT messages: taken, repeated, early (something before is lacking), or why they are dead",
    ["result"],
)
TAKEN = Counter("collect_readings_taken", "Readings taken for the first time")
REPEATED = Counter("collect_readings_repeated", "Readings that had come before")
GIVEN_UP = Counter("collect_readings_given_up", "Sequences that devices gave up")
ANSWERS = Counter("collect_answers", "Acknowledgements and rejections that devices were told")
DELIVERY = Histogram(
    "collect_delivery_seconds",
    "From a message's arrival to Kafka's acknowledgement of what is in it",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600, 3600),
)
CONNECTED = Gauge("collect_mqtt_connected", "1 while the broker has the subscription")
UNACKNOWLEDGED = Gauge("collect_mqtt_unacknowledged", "Messages that the broker waits for")
FLYING = Gauge("collect_kafka_unacknowledged", "Entries that Kafka was given and has not answered")
WAITED = Gauge("collect_kafka_waited_seconds", "How long the oldest of them has waited")
BOOTS = Gauge("collect_boots", "Lives of devices' counters that are remembered")
SPOOLING = Gauge("collect_spooling", "1 while what comes is written to the spool")
SPOOL_FULL = Gauge("collect_spool_full", "1 while the spool has no room, so nothing is taken")
SPOOL_BYTES = Gauge("collect_spool_bytes", "Bytes in the spool")
SPOOL_LIMIT = Gauge("collect_spool_limit_bytes", "How many it may have")
SPOOL_DAMAGED = Gauge(
    "collect_spool_damaged", "Segments that could not be read whole when the bridge began"
)


def show(bridge: Bridge[Any], spool: Spool, now: float) -> None:
    """Set what is a state, and count what happened since the last time."""
    counts, bridge.counts = bridge.counts, Counts()
    TAKEN.inc(counts.taken)
    REPEATED.inc(counts.repeated)
    GIVEN_UP.inc(counts.given_up)
    ANSWERS.inc(counts.answers)
    UNACKNOWLEDGED.set(bridge.unsafe)
    FLYING.set(bridge.flying)
    WAITED.set(bridge.waited(now))
    BOOTS.set(bridge.boots)
    SPOOLING.set(bridge.spooling)
    SPOOL_FULL.set(bridge.full)
    SPOOL_BYTES.set(spool.size)
    SPOOL_LIMIT.set(spool.limit)
    SPOOL_DAMAGED.set(spool.damaged)
