"""Kafka's dashboard: series of the brokers' JMX agent (kafka_files.JMX)."""

from __future__ import annotations

from components.dashboards import HERE, PODS, RATE, Dashboard, graph, quiet, stat
from components.datalake.kafka_config import KafkaConfig


def kafka_dashboard(name: str, namespace: str, config: KafkaConfig) -> Dashboard:
    """Controllers are asked in the namespace, not by `$pod`: they may have pods of their own."""
    return Dashboard(
        name=name,
        title="Kafka",
        description="Brokers, controllers, replicas and topics.",
        namespace=namespace,
        source="kafka_broker_state",
        pods=True,
        alerts="Kafka.+",
        health=[
            stat(
                "Running brokers",
                f"{config.brokers} are declared; look at the pods of what is missing.",
                quiet(f"count(kafka_broker_state{{{PODS}}} == 3)"),
                red_below=config.brokers,
            ),
            stat(
                "Offline partitions",
                "Partitions without a leader take and give no messages.",
                f"max(kafka_controller_offlinepartitionscount{{{HERE}}})",
                red_from=1,
            ),
            stat(
                "Partitions under min ISR",
                "Writes to them with acks=all are refused.",
                f"sum(kafka_replica_manager_underminisrpartitioncount{{{PODS}}})",
                red_from=1,
            ),
            stat(
                "Under-replicated partitions",
                "They miss a replica; one more lost broker may stop writes.",
                f"sum(kafka_replica_manager_underreplicatedpartitions{{{PODS}}})",
                red_from=1,
            ),
            stat(
                "Active controllers",
                "Exactly one leads; with none no leader is elected.",
                f"sum(kafka_controller_activecontrollercount{{{HERE}}})",
                red_below=1,
                red_from=2,
            ),
        ],
        traffic=[
            graph(
                "Bytes in and out",
                "Of clients, per broker; replication is not in it.",
                "binBps",
                {
                    "in {{pod}}": f"rate(kafka_broker_bytesin_total{{{PODS}}}[{RATE}])",
                    "out {{pod}}": f"rate(kafka_broker_bytesout_total{{{PODS}}}[{RATE}])",
                },
            ),
            graph(
                "Messages by topic",
                "Messages that producers send; a topic comes with its first one.",
                "ops",
                {
                    "{{topic}}": quiet(
                        f"sum by (topic) (rate(kafka_topic_messagesin_total{{{PODS}}}[{RATE}]))"
                    )
                },
            ),
        ],
        saturation=[
            graph(
                "Latency of produce requests (99th percentile)",
                "With acks=all the slowest replica in sync decides it.",
                "ms",
                {"{{pod}}": f"kafka_produce_latency_p99_ms{{{PODS}}}"},
            ),
            graph(
                "Heap in use",
                "Close to its maximum all the time, collections stop the broker.",
                "bytes",
                {"{{pod}}": f"kafka_heap_used_bytes{{{PODS}}}"},
            ),
            graph(
                "Partitions and leaders",
                "Leaders on few brokers mean load on few brokers.",
                "short",
                {
                    "replicas {{pod}}": f"kafka_replica_manager_partitioncount{{{PODS}}}",
                    "leaders {{pod}}": f"kafka_replica_manager_leadercount{{{PODS}}}",
                },
            ),
        ],
        errors=[
            graph(
                "Failed requests",
                "Produce and fetch requests that a broker could not serve.",
                "ops",
                {
                    f"{what} {{{{pod}}}}": f"rate(kafka_broker_{series}_total{{{PODS}}}[{RATE}])"
                    for what, series in (
                        ("produce", "failedproducerequests"),
                        ("fetch", "failedfetchrequests"),
                    )
                },
            ),
            graph(
                "Rejected bytes",
                "Batches that are larger than their topic allows.",
                "binBps",
                {"{{pod}}": f"rate(kafka_broker_bytesrejected_total{{{PODS}}}[{RATE}])"},
            ),
        ],
    )
