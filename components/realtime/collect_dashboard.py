"""The dashboard of collection: the bridge's own series (services/collect/metrics.py)."""

from __future__ import annotations

from components.dashboards import PODS, RATE, Dashboard, graph, quantile, quiet, rate, stat
from components.realtime.collect_rules import FILLED


def collect_dashboard(name: str, namespace: str) -> Dashboard:
    """Of the one bridge."""
    dead = f'collect_messages_total{{{PODS}, result!~"taken|repeated|early"}}'
    filled = f"max(collect_spool_bytes{{{PODS}}} / collect_spool_limit_bytes{{{PODS}}})"

    def grows(series: str) -> str:
        return f"sum(rate(collect_{series}_total{{{PODS}}}[{RATE}]))"

    return Dashboard(
        name=name,
        title="Collection",
        description="Readings of devices from MQTT into Kafka, and what waits while it is away.",
        namespace=namespace,
        source="collect_spool_limit_bytes",
        pods=True,
        alerts="Collect.+",
        health=[
            stat(
                "Bridges that answer",
                "One is declared: two could not keep the order.",
                quiet(f'count(up{{{PODS}, container="{name}"}} == 1)'),
                red_below=1,
            ),
            stat(
                "Subscribed at Mosquitto",
                "Without it nothing comes in; devices keep what they measure.",
                f"max(collect_mqtt_connected{{{PODS}}})",
                red_below=1,
            ),
            stat(
                "Spooling",
                "Kafka does not answer in time: readings wait on the bridge's disk.",
                f"max(collect_spooling{{{PODS}}})",
                red_from=1,
            ),
            stat(
                "Spool in use",
                "When it is full, nothing more is acknowledged.",
                filled,
                "percentunit",
                red_from=FILLED,
            ),
            stat(
                "Spool full",
                "Devices keep what they measure, as long as they can.",
                f"max(collect_spool_full{{{PODS}}})",
                red_from=1,
            ),
        ],
        traffic=[
            graph(
                "Readings",
                "Taken for the first time, and those that came again.",
                "ops",
                {"taken": grows("readings_taken"), "again": grows("readings_repeated")},
            ),
            graph(
                "Messages",
                "By what became of them; early ones are sent again by their devices.",
                "mps",
                {"{{result}}": quiet(rate(f"collect_messages_total{{{PODS}}}", "result"))},
            ),
            graph(
                "Answers to devices",
                "Acknowledgements are for all that is safe, so they are fewer than readings.",
                "mps",
                {"answers": grows("answers")},
            ),
        ],
        saturation=[
            graph(
                "From arrival to Kafka's acknowledgement",
                "Alarms wait for it; what was spooled counts from its arrival too.",
                "s",
                {
                    "50 %": quantile(0.5, f"collect_delivery_seconds_bucket{{{PODS}}}"),
                    "99 %": quantile(0.99, f"collect_delivery_seconds_bucket{{{PODS}}}"),
                },
            ),
            graph(
                "On their way",
                "Messages that Mosquitto waits for, and readings that Kafka has not answered.",
                "short",
                {
                    "mqtt": f"sum(collect_mqtt_unacknowledged{{{PODS}}})",
                    "kafka": f"sum(collect_kafka_unacknowledged{{{PODS}}})",
                },
            ),
            graph(
                "Longest wait for Kafka",
                "After a while what waits is spooled.",
                "s",
                {"oldest": f"max(collect_kafka_waited_seconds{{{PODS}}})"},
            ),
            graph(
                "Spool",
                "Bytes on disk, and how many it may have.",
                "bytes",
                {
                    "used": f"sum(collect_spool_bytes{{{PODS}}})",
                    "limit": f"sum(collect_spool_limit_bytes{{{PODS}}})",
                },
            ),
            graph(
                "Boots remembered",
                "Lives of devices' counters; the one that was silent longest is forgotten first.",
                "short",
                {"boots": f"sum(collect_boots{{{PODS}}})"},
            ),
        ],
        errors=[
            graph(
                "Dead letters",
                "By reason; topic sensors.dead has them.",
                "mps",
                {"{{result}}": quiet(rate(dead, "result"))},
            ),
            graph(
                "Readings given up",
                "By devices whose memory was full before an acknowledgement came.",
                "ops",
                {"given up": grows("readings_given_up")},
            ),
            graph(
                "Damaged parts of the spool",
                "As the bridge found them when it began: acknowledged readings are missing.",
                "short",
                {"damaged": f"max(collect_spool_damaged{{{PODS}}})"},
            ),
        ],
    )
