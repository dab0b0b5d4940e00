"""Collection: the bridge between Mosquitto and Kafka (services/collect).

One pod, a StatefulSet of one: two bridges could not keep a device's order. MQTT's shared
subscriptions hand the messages of one topic to members in turn, so two of them would write a
device's readings side by side. What a second one would give, going on sooner, is a pod's start.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import ExpectedPods
from components.datalake.kafka_cluster import KafkaCluster
from components.datalake.kafka_files import CLIENTS_PORT as KAFKA_PORT
from components.flows import Flow, Pods, scraped
from components.model import Image
from components.realtime.collect_checks import collect_checks
from components.realtime.collect_config import ACL, NAME, NAMESPACE, PORT, USER, CollectConfig
from components.realtime.collect_dashboard import collect_dashboard
from components.realtime.collect_rules import collect_rules
from components.realtime.mosquitto import Mosquitto
from components.workload import (
    TRUST_CONFIG_MAP,
    Component,
    by_https,
    certificate,
    checksum,
    claim_template,
    config_map_volume,
    container_security,
    labels,
    meta,
    pod_monitor,
    pod_security,
    probe,
    prometheus_rule,
    requirements,
    secret_volume,
    service_account,
    service_dns,
)

_ROOT = "/collect"
_UID = 1000
_NOWHERE = "127.0.0.1:9"
_PASSWORD = {"password": "password"}
_mount = k8s.core.v1.VolumeMountArgs


class Collect(Component):
    """The bridge. `pods` are those that it consists of."""

    pods: Pods

    def __init__(
        self,
        config: CollectConfig,
        *,
        namespace: pulumi.Input[str],
        image: Image,
        mosquitto: Mosquitto,
        kafka: KafkaCluster,
        kafka_password: pulumi.Input[str],
        authority: Authority,
        issuer: Sequence[pulumi.Resource] = (),
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:realtime:Collect", NAME, opts)
        self._config, self._namespace = config, namespace
        self._mosquitto, self._kafka = mosquitto, kafka
        self._selector = labels(NAME)
        self._host = f"{NAME}.{NAMESPACE}.svc.cluster.local"
        settings = k8s.core.v1.ConfigMap(
            f"{NAME}-config",
            metadata=meta(f"{NAME}-config", namespace, self._selector),
            data={"settings.json": self._settings(kafka.address)},
            opts=self.child(),
        )
        # Kafka's own Secret of the user is in another namespace.
        secret = k8s.core.v1.Secret(
            f"{NAME}-kafka",
            metadata=meta(f"{NAME}-kafka", namespace, self._selector),
            string_data={"username": USER, "password": kafka_password},
            opts=self.child(),
        )
        tls = certificate(
            f"{NAME}-tls",
            namespace,
            service_dns(NAME, NAMESPACE),
            self.child(depends_on=list(issuer)),
            issuer=authority.issuer,
        )
        account = service_account(NAME, namespace, self.child())
        service = k8s.core.v1.Service(
            NAME,
            metadata=meta(NAME, namespace, self._selector, {"pulumi.com/skipAwait": "true"}),
            spec=k8s.core.v1.ServiceSpecArgs(
                cluster_ip="None",
                selector=self._selector,
                ports=[k8s.core.v1.ServicePortArgs(name="https", port=PORT, target_port="https")],
            ),
            opts=self.child(),
        )
        k8s.apps.v1.StatefulSet(
            NAME,
            metadata=meta(NAME, namespace, self._selector),
            spec=self._stateful_set(image, checksum(settings.data)),
            opts=self.child(
                depends_on=[settings, secret, tls, account, service, mosquitto, *kafka.ready],
                protect=config.protect,
            ),
        )
        self.pods = Pods(name=NAME, namespace=NAMESPACE, selector=self._selector)
        self.flows += [
            Flow(source=self.pods, target=mosquitto.pods, ports=[mosquitto.port]),
            Flow(source=self.pods, target=kafka.brokers, ports=[KAFKA_PORT]),
        ]
        if monitors is not None:
            self._monitor(monitors)
        self.expected_pods.append(
            ExpectedPods(
                name=NAME,
                namespace=NAMESPACE,
                selector=self._selector,
                count=1,
                resources=config.resources,
                claims=[config.storage.size_gib],
            )
        )
        self.checks += collect_checks(
            mqtt=(mosquitto.address, mosquitto.port),
            kafka=kafka.address,
            misled=self._settings(_NOWHERE),
            mute=mosquitto.other_rules({USER: [rule for rule in ACL if rule.access == "read"]}),
        )
        self.register_outputs({})

    def _settings(self, bootstrap: str) -> str:
        """settings.json (services/collect/settings.py)."""
        config, mosquitto = self._config, self._mosquitto
        settings: dict[str, Any] = {
            "mqtt": {
                "host": mosquitto.address,
                "port": mosquitto.port,
                "user": USER,
                "password": f"{_ROOT}/mqtt/password",
                "client_id": NAME,
                "session_s": config.session_h * 3600,
                "receive_maximum": config.receive_maximum,
            },
            "kafka": {
                "bootstrap": bootstrap,
                "user": USER,
                "password": f"{_ROOT}/kafka/password",
                "linger_ms": config.linger_ms,
                "tail": config.tail,
            },
            "spool": {"folder": f"{_ROOT}/spool/entries", "limit_mib": config.spool_mib},
            "server": {
                "port": PORT,
                "certificate": f"{_ROOT}/tls/tls.crt",
                "key": f"{_ROOT}/tls/tls.key",
            },
            "trust": f"{_ROOT}/trust/ca.crt",
            "patience_s": config.patience_ms / 1000,
            "window": config.window,
            "acknowledge_ms": config.acknowledge_ms,
            "boots": config.boots,
        }
        return json.dumps(settings, indent=1)

    def _stateful_set(
        self, image: Image, contents: pulumi.Output[str]
    ) -> k8s.apps.v1.StatefulSetSpecArgs:
        return k8s.apps.v1.StatefulSetSpecArgs(
            replicas=1,
            service_name=NAME,
            selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
            template=k8s.core.v1.PodTemplateSpecArgs(
                metadata=k8s.meta.v1.ObjectMetaArgs(
                    labels=self._selector, annotations={"estate.dev/settings": contents}
                ),
                spec=self._pod(image),
            ),
            volume_claim_templates=[claim_template("spool", self._config.storage)],
        )

    def _pod(self, image: Image) -> k8s.core.v1.PodSpecArgs:
        read = [
            _mount(name=volume, mount_path=f"{_ROOT}/{volume}", read_only=True)
            for volume in ("config", "mqtt", "kafka", "trust", "tls")
        ]
        return k8s.core.v1.PodSpecArgs(
            service_account_name=NAME,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=pod_security(_UID),
            # What Kafka is to acknowledge is waited for 5 s.
            termination_grace_period_seconds=20,
            containers=[
                k8s.core.v1.ContainerArgs(
                    name=NAME,
                    image=image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["/usr/bin/python3", "-m", "services.collect"],
                    args=[f"{_ROOT}/config/settings.json"],
                    ports=[k8s.core.v1.ContainerPortArgs(name="https", container_port=PORT)],
                    security_context=container_security(),
                    resources=requirements(self._config.resources),
                    # The spool is read before the first round, 55 s were seen for a GiB of it.
                    startup_probe=probe(
                        http=("/alive", "https"),
                        scheme="HTTPS",
                        period_s=2,
                        failures=30 + self._config.spool_mib // 20,
                    ),
                    readiness_probe=probe(http=("/ready", "https"), scheme="HTTPS", period_s=5),
                    liveness_probe=probe(http=("/alive", "https"), scheme="HTTPS", period_s=20),
                    volume_mounts=[*read, _mount(name="spool", mount_path=f"{_ROOT}/spool")],
                )
            ],
            volumes=[
                config_map_volume("config", f"{NAME}-config"),
                secret_volume("mqtt", f"mosquitto-{USER}", _PASSWORD),
                secret_volume("kafka", f"{NAME}-kafka", _PASSWORD),
                config_map_volume("trust", TRUST_CONFIG_MAP),
                secret_volume("tls", f"{NAME}-tls"),
            ],
        )

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(depends_on))
        endpoint = {"port": "https", **by_https(self._host)}
        pod_monitor(NAME, self._namespace, self._selector, [endpoint], opts)
        prometheus_rule(NAME, self._namespace, collect_rules(NAME, NAMESPACE), opts)
        self.dashboards.append(collect_dashboard(NAME, NAMESPACE))
        self.flows.append(scraped(self.pods, PORT))
