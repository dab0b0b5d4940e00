"""The store outside of the estate that backups go to: what its clients mount."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as k8s

from components.datalake.backup_config import BackupStore as StoreConfig
from components.workload import Component, labels, meta

NAME = "backup-store"
ACCESS_KEY, SECRET_KEY, CA = "access-key", "secret-key", "ca.crt"
RCLONE = "rclone.conf"
REMOTE = "store"
"""What rclone calls it."""


class BackupStore(Component):
    """The Secret `backup-store`: keys, rclone's configuration, and the CA where it has its own.

    One in each namespace whose Jobs mount it. `name` is the Secret's; `secret` the same once it is
    made.
    """

    config: StoreConfig
    name: str
    secret: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        config: StoreConfig,
        *,
        namespace: pulumi.Input[str],
        access_key: pulumi.Input[str],
        secret_key: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:datalake:BackupStore", name, opts)
        self.config, self.name = config, NAME
        keys = pulumi.Output.all(access_key, secret_key)
        made = k8s.core.v1.Secret(
            name,
            metadata=meta(NAME, namespace, labels(NAME)),
            string_data={
                ACCESS_KEY: access_key,
                SECRET_KEY: secret_key,
                RCLONE: keys.apply(lambda both: rclone(config, *both)),
                **({CA: config.ca} if config.ca is not None else {}),
            },
            opts=self.child(),
        )
        self.secret = made.metadata.apply(lambda m: str(m.name))
        self.register_outputs({"secret": self.secret})


def rclone(config: StoreConfig, access_key: str, secret_key: str) -> str:
    """The configuration file of rclone."""
    values = {
        "type": "s3",
        "provider": "Other",
        "endpoint": config.endpoint,
        "region": config.region,
        "access_key_id": access_key.strip(),
        "secret_access_key": secret_key.strip(),
        # It may not be allowed to make buckets, and need not look.
        "no_check_bucket": "true",
    }
    return "\n".join([f"[{REMOTE}]", *(f"{key} = {values[key]}" for key in values), ""])
