"""What Prometheus watches of Kafka."""

from __future__ import annotations

from collections.abc import Mapping

import pulumi

from components.datalake.kafka_config import KafkaConfig
from components.workload import alert, pod_monitor, prometheus_rule


def monitor(
    name: str,
    namespace: pulumi.Input[str],
    selector: Mapping[str, str],
    config: KafkaConfig,
    opts: pulumi.ResourceOptions,
    *,
    port: str = "metrics",
) -> None:
    """Scrape the brokers' JMX agent, and alert on what loses data or availability.

    `port` is its port's name; the agent runs by the rules of kafka_files.JMX, whoever started it.
    """
    # In clear: the JMX agent as it is configured serves no TLS.
    waived = {"encryption": "counters of the brokers, no records and no credentials"}
    pod_monitor(name, namespace, selector, [{"port": port}], opts, waived=waived)
    prometheus_rule(
        name,
        namespace,
        [
            alert(
                "KafkaBrokerMissing",
                f"(count(kafka_broker_state == 3) or vector(0)) < {config.brokers}",
                f"fewer than {config.brokers} Kafka brokers run",
                for_s=120,
            ),
            alert(
                "KafkaPartitionOffline",
                "max(kafka_controller_offlinepartitionscount) > 0",
                "partitions without a leader: they take and give no messages",
                for_s=30,
            ),
            alert(
                "KafkaUnderMinIsr",
                "sum(kafka_replica_manager_underminisrpartitioncount) > 0",
                "partitions below min.insync.replicas: writes with acks=all are refused",
                for_s=30,
            ),
            alert(
                "KafkaUnderReplicated",
                "sum(kafka_replica_manager_underreplicatedpartitions) > 0",
                "partitions miss a replica: the loss of one more broker may stop writes",
                for_s=300,
                severity="warning",
            ),
            alert(
                "KafkaNoActiveController",
                "sum(kafka_controller_activecontrollercount) != 1",
                "Kafka has not exactly one active controller",
                for_s=60,
            ),
        ],
        opts,
    )
