"""What every implementation of Kafka hands to other components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.datalake.kafka_config import KafkaConfig
from components.flows import Pods
from components.workload import Component, labels, meta


class KafkaCluster(Component):
    """A cluster for SCRAM clients, whoever runs it.

    `bootstrap` is what they connect to (SASL_SSL, SCRAM-SHA-512, the estate's CA), `address` the
    same as text that is known before; `users` maps a name to its Secret's name (keys `username`,
    `password`); `ready` holds the resources after which the declared topics and users exist;
    `brokers` are the pods that clients reach.
    """

    bootstrap: pulumi.Output[str]
    address: str
    users: dict[str, pulumi.Output[str]]
    ready: Sequence[pulumi.Resource]
    brokers: Pods

    _name: str
    _config: KafkaConfig
    _namespace: pulumi.Input[str]

    def _passwords(
        self, passwords: Mapping[str, pulumi.Input[str]]
    ) -> dict[str, k8s.core.v1.Secret]:
        """The Secret of each declared user."""
        return {
            user.name: k8s.core.v1.Secret(
                f"{self._name}-{user.name}",
                metadata=meta(f"{self._name}-{user.name}", self._namespace, labels(self._name)),
                string_data={"username": user.name, "password": passwords[user.name]},
                opts=self.child(),
            )
            for user in self._config.users
        }

    def _declare(
        self,
        address: str,
        secrets: Mapping[str, k8s.core.v1.Secret],
        ready: Sequence[pulumi.Resource],
    ) -> None:
        """Fill the outputs; `address` counts once everything in `ready` is made."""
        self.ready, self.address = ready, address
        made = pulumi.Output.all(*(resource.urn for resource in ready))
        self.bootstrap = made.apply(lambda _: address)
        self.users = {
            user: secret.metadata.apply(lambda m: str(m.name)) for user, secret in secrets.items()
        }
        self.register_outputs({"bootstrap": self.bootstrap, "users": self.users})
