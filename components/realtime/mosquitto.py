"""Mosquitto: the broker that devices speak to, TLS only, every user with its own topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.authority import Authority
from components.checks import Check, ExpectedPods, Fault, SecretKeyRef, settings_fault
from components.flows import Flow, Pods, scraped
from components.model import Image
from components.realtime.mosquitto_config import (
    EXPORT,
    HASH_PASSWORDS,
    METRICS_PORT,
    PORT,
    SERVE,
    UID,
    VERIFY_DEVICE,
    VERIFY_TOPIC,
    Acl,
    MosquittoConfig,
    acl_file,
    exporter_config,
    open_server_config,
    server_config,
)
from components.realtime.mosquitto_dashboard import mosquitto_dashboard
from components.workload import (
    Component,
    alert,
    certificate,
    checksum,
    claim_template,
    config_map_volume,
    container_security,
    labels,
    memory_volume,
    meta,
    passwords_volume,
    pod_monitor,
    pod_security,
    probe,
    prometheus_rule,
    requirements,
    secret_volume,
    service_account,
    service_dns,
    waive,
)
from services.collect.messages import readings


class Mosquitto(Component):
    """The broker as a StatefulSet of one, its users as Secrets `mosquitto-<user>`.

    `host` and `port` are where clients connect, `address` the host as text that is known before;
    `users` maps a name, of devices too, to its Secret's name (keys `username`, `password`); `pods`
    are those that clients reach.
    """

    host: pulumi.Output[str]
    address: str
    pods: Pods
    port: int
    users: dict[str, pulumi.Output[str]]

    def __init__(
        self,
        name: str,
        config: MosquittoConfig,
        *,
        namespace: pulumi.Input[str],
        namespace_name: str = "realtime",
        image: Image,
        exporter_image: Image,
        passwords: Mapping[str, pulumi.Input[str]],
        trust: str,
        authority: Authority,
        monitors: Sequence[pulumi.Resource] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:realtime:Mosquitto", name, opts)
        self._name, self._config, self._namespace = name, config, namespace
        self._selector = labels(name)
        self._images = (image, exporter_image)
        host = f"{name}.{namespace_name}.svc.cluster.local"
        settings = self._settings(host)
        tls = certificate(
            f"{name}-tls",
            namespace,
            service_dns(name, namespace_name),
            self.child(),
            issuer=authority.issuer,
        )
        secrets = self._users(passwords)
        account = service_account(name, namespace, self.child())
        service = k8s.core.v1.Service(
            name,
            metadata=meta(name, namespace, self._selector, {"pulumi.com/skipAwait": "true"}),
            spec=k8s.core.v1.ServiceSpecArgs(
                selector=self._selector,
                ports=[k8s.core.v1.ServicePortArgs(name="mqtts", port=PORT, target_port="mqtts")],
            ),
            opts=self.child(),
        )
        workload = k8s.apps.v1.StatefulSet(
            name,
            metadata=meta(
                name,
                namespace,
                self._selector,
                waive(
                    {
                        "probes.exporter.readiness": "a broker must take clients before and "
                        "without its exporter",
                        "kube-score.statefulset-has-servicename": "one pod, reached through its "
                        "Service and never by a name of its own",
                    }
                ),
            ),
            spec=self._stateful_set(settings, trust, passwords),
            opts=self.child(
                depends_on=[tls, account, service, *secrets.values()], protect=config.protect
            ),
        )
        pods = Pods(name=name, namespace=namespace_name, selector=self._selector)
        self.address, self.pods = host, pods
        # The exporter beside the broker asks it by the name that its certificate has.
        self.flows.append(Flow(source=pods, target=pods, ports=[PORT]))
        if monitors is not None:
            self._monitor(monitors)
            self.dashboards.append(mosquitto_dashboard(name, namespace_name))
            self.flows.append(scraped(pods, METRICS_PORT))
        self.host = workload.id.apply(lambda _: host)
        self.port = PORT
        self.users = {
            user: made.metadata.apply(lambda m: str(m.name)) for user, made in secrets.items()
        }
        self._declare_checks(host, namespace_name)
        self.register_outputs({"host": self.host, "port": self.port, "users": self.users})

    def other_rules(self, overrides: Mapping[str, Sequence[Acl]]) -> Fault:
        """The fault of checks whose subject is what users may do: other rules for some of them."""
        data = {"acl": acl_file(self._config, overrides)}
        name = self._name
        return settings_fault(self.pods.namespace, f"{name}-config", data, restart=name)

    def _settings(self, host: str) -> dict[str, k8s.core.v1.ConfigMap]:
        name = self._name
        contents = {
            "config": {
                "mosquitto.conf": server_config(self._config),
                "acl": acl_file(self._config),
            },
            "scripts": {
                "hash-passwords.sh": HASH_PASSWORDS,
                "serve.sh": SERVE,
                "export.sh": EXPORT,
            },
            "exporter": {"exporter.yaml": exporter_config("exporter", host)},
        }
        return {
            part: k8s.core.v1.ConfigMap(
                f"{name}-{part}",
                metadata=meta(f"{name}-{part}", self._namespace, self._selector),
                data=data,
                opts=self.child(),
            )
            for part, data in contents.items()
        }

    def _users(self, passwords: Mapping[str, pulumi.Input[str]]) -> dict[str, k8s.core.v1.Secret]:
        return {
            user.name: k8s.core.v1.Secret(
                f"{self._name}-{user.name}",
                metadata=meta(f"{self._name}-{user.name}", self._namespace, self._selector),
                string_data={"username": user.name, "password": passwords[user.name]},
                opts=self.child(),
            )
            for user in self._config.everyone
        }

    def _stateful_set(
        self,
        settings: Mapping[str, k8s.core.v1.ConfigMap],
        trust: str,
        passwords: Mapping[str, pulumi.Input[str]],
    ) -> k8s.apps.v1.StatefulSetSpecArgs:
        return k8s.apps.v1.StatefulSetSpecArgs(
            replicas=1,
            service_name=self._name,
            selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
            template=k8s.core.v1.PodTemplateSpecArgs(
                metadata=k8s.meta.v1.ObjectMetaArgs(
                    labels=self._selector,
                    annotations={
                        # Changed settings or passwords restart the broker; certificates do not.
                        "estate.dev/settings": checksum(
                            *(settings[part].data for part in sorted(settings))
                        ),
                        "estate.dev/passwords": checksum(
                            *(passwords[user.name] for user in self._config.everyone)
                        ),
                    },
                ),
                spec=self._pod(trust),
            ),
            volume_claim_templates=[claim_template("data", self._config.storage)],
        )

    def _pod(self, trust: str) -> k8s.core.v1.PodSpecArgs:
        name, (image, exporter_image) = self._name, self._images
        mount = k8s.core.v1.VolumeMountArgs
        scripts = mount(name="scripts", mount_path="/mosquitto/scripts", read_only=True)
        auth = mount(name="auth", mount_path="/mosquitto/auth")
        return k8s.core.v1.PodSpecArgs(
            service_account_name=name,
            automount_service_account_token=False,
            enable_service_links=False,
            security_context=pod_security(UID),
            termination_grace_period_seconds=20,
            init_containers=[
                k8s.core.v1.ContainerArgs(
                    name="hash-passwords",
                    image=image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["/bin/sh", "/mosquitto/scripts/hash-passwords.sh"],
                    security_context=container_security(),
                    resources=requirements(self._config.resources),
                    volume_mounts=[
                        scripts,
                        auth,
                        # mosquitto_passwd rewrites the file by way of an unnamed one in /tmp.
                        mount(name="auth", mount_path="/tmp"),
                        mount(name="users", mount_path="/mosquitto/users", read_only=True),
                    ],
                )
            ],
            containers=[
                k8s.core.v1.ContainerArgs(
                    name="mosquitto",
                    image=image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["/bin/sh", "/mosquitto/scripts/serve.sh"],
                    ports=[k8s.core.v1.ContainerPortArgs(name="mqtts", container_port=PORT)],
                    security_context=container_security(),
                    resources=requirements(self._config.resources),
                    startup_probe=probe(tcp="mqtts", period_s=1, failures=60),
                    readiness_probe=probe(tcp="mqtts", period_s=5),
                    liveness_probe=probe(tcp="mqtts", period_s=20),
                    volume_mounts=[
                        scripts,
                        auth,
                        mount(name="config", mount_path="/mosquitto/config", read_only=True),
                        mount(name="tls", mount_path="/mosquitto/tls", read_only=True),
                        mount(name="data", mount_path="/mosquitto/data"),
                    ],
                ),
                k8s.core.v1.ContainerArgs(
                    name="exporter",
                    image=exporter_image.ref,
                    image_pull_policy="IfNotPresent",
                    command=["/bin/sh", "/mosquitto/scripts/export.sh"],
                    env=[
                        k8s.core.v1.EnvVarArgs(
                            name="MQTT2PROM_MQTT_PASSWORD", value="/exporter/user/password"
                        ),
                        # It takes a CA from its configuration only beside a client certificate.
                        k8s.core.v1.EnvVarArgs(name="SSL_CERT_FILE", value="/exporter/tls/ca.crt"),
                    ],
                    ports=[
                        k8s.core.v1.ContainerPortArgs(name="metrics", container_port=METRICS_PORT)
                    ],
                    security_context=container_security(),
                    resources=requirements(self._config.exporter_resources),
                    # The broker must take clients before and without its exporter: the pod's
                    # readiness is not the exporter's, only its life is watched.
                    readiness_probe=None,
                    liveness_probe=probe(
                        http=("/metrics", "metrics"), period_s=20, initial_delay_s=10, failures=6
                    ),
                    volume_mounts=[
                        scripts,
                        mount(
                            name="exporter-config", mount_path="/exporter/config", read_only=True
                        ),
                        mount(name="exporter-user", mount_path="/exporter/user", read_only=True),
                        mount(name="trust", mount_path="/exporter/tls", read_only=True),
                    ],
                ),
            ],
            volumes=[
                config_map_volume("config", f"{name}-config"),
                config_map_volume("scripts", f"{name}-scripts"),
                config_map_volume("exporter-config", f"{name}-exporter"),
                config_map_volume("trust", trust),
                secret_volume("tls", f"{name}-tls"),
                secret_volume("exporter-user", f"{name}-exporter"),
                passwords_volume(
                    "users", {user.name: f"{name}-{user.name}" for user in self._config.everyone}
                ),
                memory_volume("auth", 1),
            ],
        )

    def _monitor(self, depends_on: Sequence[pulumi.Resource]) -> None:
        opts = self.child(depends_on=list(depends_on))
        pod_monitor(
            self._name,
            self._namespace,
            self._selector,
            [{"port": "metrics"}],
            opts,
            waived={"encryption": "counters of the broker, no payloads and no credentials"},
        )
        prometheus_rule(
            self._name,
            self._namespace,
            [
                alert(
                    "MosquittoDown",
                    "absent(mosquitto_clients_connected)",
                    "Mosquitto answers its exporter no more: devices cannot publish",
                    for_s=120,
                ),
                alert(
                    "MosquittoDropsMessages",
                    "rate(mosquitto_publish_dropped_total[5m]) > 0",
                    "Mosquitto drops messages: a subscriber is offline or too slow",
                    severity="warning",
                ),
            ],
            opts,
        )

    def _declare_checks(self, host: str, namespace: str) -> None:
        name = self._name
        common: dict[str, Any] = {
            "host": host,
            "port": PORT,
            "username": "verify",
            "password": SecretKeyRef(
                namespace=namespace, secret=f"{name}-verify", key="password"
            ).arg(),
            "ca": SecretKeyRef(namespace=namespace, secret=f"{name}-tls", key="ca.crt").arg(),
        }
        verify = next(user for user in self._config.everyone if user.name == "verify")
        checks: list[tuple[str, str, str, dict[str, Any], dict[str, str]]] = [
            (
                "round-trip",
                "a message published over TLS comes back",
                "mosquitto_round_trip",
                {"topic": VERIFY_TOPIC},
                {"acl": acl_file(self._config, {"verify": []})},
            ),
            (
                "wrong-password",
                "a wrong password is refused by authentication",
                "mosquitto_wrong_password",
                {},
                {"mosquitto.conf": open_server_config(self._config)},
            ),
            (
                "acl",
                "a user is denied a foreign topic",
                "mosquitto_foreign_topic",
                {"topic": "estate/foreign"},
                {
                    "acl": acl_file(
                        self._config,
                        {"verify": [*verify.acl, Acl(topic="estate/foreign", access="readwrite")]},
                    )
                },
            ),
        ]
        devices = {device.name: device.user for device in self._config.devices}
        if (device := devices.get(VERIFY_DEVICE)) is not None:
            foreign = readings("another")
            password = SecretKeyRef(
                namespace=namespace, secret=f"{name}-{device.name}", key="password"
            )
            checks.append(
                (
                    "device",
                    "a device is denied the readings of another one",
                    "mosquitto_foreign_topic",
                    {"topic": foreign, "username": device.name, "password": password.arg()},
                    {
                        "acl": acl_file(
                            self._config,
                            {device.name: [*device.acl, Acl(topic=foreign, access="write")]},
                        )
                    },
                )
            )
        for check, title, probe_name, extra, patch in checks:
            self.checks.append(
                Check(
                    id=f"mosquitto.{check}",
                    title=title,
                    probe=probe_name,
                    args={**common, **extra},
                    fault=settings_fault(namespace, f"{name}-config", patch, restart=name),
                )
            )
        self.expected_pods.append(
            ExpectedPods(
                name=name,
                namespace=namespace,
                selector=self._selector,
                count=1,
                resources=self._config.resources,
                claims=[self._config.storage.size_gib],
            )
        )
