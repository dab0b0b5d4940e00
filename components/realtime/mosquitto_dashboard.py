"""Mosquitto's dashboard: series of its exporter, made of the broker's $SYS topics."""

from __future__ import annotations

from components.dashboards import HERE, RATE, Dashboard, graph, quiet, stat


def mosquitto_dashboard(name: str, namespace: str) -> Dashboard:
    """Of one broker."""

    def rate(series: str) -> str:
        return f"sum(rate(mosquitto_{series}_total{{{HERE}}}[{RATE}]))"

    def last(series: str) -> str:
        # Mosquitto publishes what has changed, and an exporter that starts again hears nothing of a
        # value that stays: it is the one known before. Only then, as the day holds former pods too.
        now = f"mosquitto_{series}{{{HERE}}}"
        return f"sum({now}) or max(last_over_time({now}[1d]))"

    return Dashboard(
        name=name,
        title="Mosquitto",
        description="Clients, messages and queues of the MQTT broker.",
        namespace=namespace,
        source="mosquitto_clients_connected",
        alerts="Mosquitto.+",
        health=[
            stat(
                "Brokers that answer",
                "Without one devices cannot publish.",
                quiet(f"count(mosquitto_clients_connected{{{HERE}}})"),
                red_below=1,
            ),
            stat(
                "Clients connected",
                "The exporter is one of them.",
                f"sum(mosquitto_clients_connected{{{HERE}}})",
            ),
            stat(
                "Messages dropped in 5 minutes",
                "A subscriber is offline or too slow, and its queue is full.",
                quiet(f"sum(increase(mosquitto_publish_dropped_total{{{HERE}}}[5m]))"),
                red_from=1,
            ),
        ],
        traffic=[
            graph(
                "Messages published",
                "In from devices, out to subscribers.",
                "mps",
                {"in": rate("publish_received"), "out": rate("publish_sent")},
            ),
            graph(
                "Packets",
                "Of every kind, pings and acknowledgements too.",
                "ops",
                {"in": rate("messages_received"), "out": rate("messages_sent")},
            ),
        ],
        saturation=[
            graph(
                "Messages held",
                "Retained ones, and those queued for clients that are away.",
                "short",
                {"held": last("stored_messages")},
            ),
            graph(
                "Heap in use",
                "It grows with what is held.",
                "bytes",
                {"heap": f"sum(mosquitto_heap_bytes{{{HERE}}})"},
            ),
            graph(
                "Sessions and subscriptions",
                "Kept sessions of clients that are away fill queues.",
                "short",
                {
                    "away": last("clients_disconnected"),
                    "subscriptions": last("subscriptions"),
                },
            ),
        ],
        errors=[
            graph(
                "Messages dropped",
                "Lost for the subscriber whose queue was full.",
                "mps",
                {"dropped": quiet(rate("publish_dropped"))},
            ),
        ],
    )
