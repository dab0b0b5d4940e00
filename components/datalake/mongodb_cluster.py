"""What every implementation of MongoDB's protocol hands to other components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.datalake.mongodb_config import PORT, MongodbConfig
from components.flows import Pods
from components.workload import Component, labels, meta


class MongodbCluster(Component):
    """MongoDB's protocol for SCRAM-SHA-256 clients, whoever serves it.

    `url` is what they connect to over TLS (verified by the estate's CA; users are in database
    `admin`), with the options that the implementation needs and without credentials, `address` the
    same as text that is known before; `users` maps a
    name to its Secret's name (keys `username`, `password`); `pods` are what a client's flow leads
    to; `ready` holds the resources after which the declared users exist.
    """

    url: pulumi.Output[str]
    address: str
    host: str
    port: int
    users: dict[str, pulumi.Output[str]]
    pods: Pods
    ready: Sequence[pulumi.Resource]

    _name: str
    _config: MongodbConfig
    _namespace: pulumi.Input[str]
    _namespace_name: str

    def secret_name(self, user: str) -> str:
        """The Secret of a user, as `users` has it, for what must be known before deployment."""
        return f"{self._name}-{user}"

    def _passwords(
        self, passwords: Mapping[str, pulumi.Input[str]]
    ) -> dict[str, k8s.core.v1.Secret]:
        """The Secret of each declared user."""
        return {
            user.name: k8s.core.v1.Secret(
                self.secret_name(user.name),
                metadata=meta(self.secret_name(user.name), self._namespace, labels(self._name)),
                string_data={"username": user.name, "password": passwords[user.name]},
                opts=self.child(),
            )
            for user in self._config.users
        }

    def _declare(
        self,
        secrets: Mapping[str, k8s.core.v1.Secret],
        ready: Sequence[pulumi.Resource],
        options: str = "",
    ) -> None:
        """Fill the outputs; the address counts once everything in `ready` is made."""
        self.ready = ready
        self.host, self.port = f"{self._name}.{self._namespace_name}.svc.cluster.local", PORT
        url = f"mongodb://{self.host}:{PORT}/?tls=true{options}"
        self.address = url
        self.url = pulumi.Output.all(*(resource.urn for resource in ready)).apply(lambda _: url)
        self.users = {
            user: secret.metadata.apply(lambda m: str(m.name)) for user, secret in secrets.items()
        }
        self.register_outputs({"url": self.url, "users": self.users})
