"""What must be true of the running pipeline, and how each statement is broken to prove it."""

from __future__ import annotations

from pydantic import JsonValue

from components.checks import Check, Fault, SecretKeyRef, scale_to, settings_fault
from components.datalake import pipeline_files as files
from components.datalake.mongodb_cluster import MongodbCluster
from components.datalake.object_store import ObjectStore
from components.datalake.pipeline_config import (
    CATALOGUE,
    CODE_SOCKET,
    PORT,
    READER,
    VERIFY_USER,
)
from components.datalake.postgres import Postgres
from components.datalake.postgres_config import PORT as POSTGRES_PORT


def pipeline_checks(
    name: str,
    *,
    namespace: str,
    host: str,
    store: ObjectStore,
    kafka: str,
    mongodb: MongodbCluster,
    postgres: Postgres,
) -> list[Check]:
    """The checks of one deployment."""

    def secret(of: str, key: str) -> dict[str, JsonValue]:
        return SecretKeyRef(namespace=namespace, secret=of, key=key).arg()

    def fault(config_map: str, key: str, text: str) -> Fault:
        return settings_fault(namespace, config_map, {key: text}, restart=name)

    pages: dict[str, JsonValue] = {
        "url": f"https://{host}:{PORT}",
        "ca": secret(f"{name}-tls", "ca.crt"),
        "user": VERIFY_USER,
        "password": secret(f"{name}-user-{VERIFY_USER}", "password"),
    }
    elsewhere = files.workspace_yaml().replace(CODE_SOCKET, "/run/pipeline/nowhere.sock")
    return [
        Check(
            id=f"{name}.location",
            title="Dagster has loaded the pipeline's code: its jobs, and its sensor runs",
            probe="pipeline_location",
            args={**pages, "location": files.LOCATION},
            fault=fault(f"{name}-config", "workspace.yaml", elsewhere),
        ),
        Check(
            id=f"{name}.daemon",
            title="Dagster's daemon is healthy",
            probe="pipeline_daemon",
            args=pages,
            fault=fault(f"{name}-config", "daemon.sh", "#!/bin/sh\nexec sleep 3600\n"),
        ),
        Check(
            id=f"{name}.password",
            title="without a password, and with a wrong one, nobody sees the pages",
            probe="pipeline_password",
            args=pages,
            fault=fault(f"{name}-proxy", "haproxy.cfg", files.haproxy_cfg(guarded=False)),
        ),
        Check(
            id=f"{name}.image",
            title="an image sent through is in all three stores, by the same digest",
            probe="pipeline_image",
            args={
                "ca": secret(f"{name}-tls", "ca.crt"),
                "kafka": {
                    "bootstrap": kafka,
                    "username": "transfer",
                    "password": secret("kafka-transfer", "password"),
                },
                "s3": {"endpoint": store.endpoint, "region": store.region},
                "sender": {
                    "access_key": secret(store.secrets["transfer"], "access-key"),
                    "secret_key": secret(store.secrets["transfer"], "secret-key"),
                },
                "reader": {
                    "access_key": secret(store.secrets[READER], "access-key"),
                    "secret_key": secret(store.secrets[READER], "secret-key"),
                },
                "mongodb": {
                    "host": mongodb.host,
                    "port": mongodb.port,
                    "username": READER,
                    "password": secret(mongodb.secret_name(READER), "password"),
                },
                "catalogue": {
                    "host": postgres.host("rw"),
                    "port": POSTGRES_PORT,
                    "dbname": CATALOGUE,
                    "user": READER,
                    "password": secret(postgres.secret_name(READER), "password"),
                },
            },
            fault=scale_to(0, "Deployment", namespace, name),
        ),
    ]
