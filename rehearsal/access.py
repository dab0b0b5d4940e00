"""How the clients of demo, drills and bench reach the estate: addresses, users, the authority.

Made outside from the environment and the rehearsal's secrets, handed to a process inside the
sandbox through its standard input; a password is never part of an argument list.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from psycopg.conninfo import make_conninfo

from components.datalake import (
    ceph_config,
    kafka_files,
    pgpool_config,
    pipeline_config,
    postgres_config,
    transfer_config,
)
from components.datalake.mongodb_config import VERIFY_USER
from components.model import SecretRef
from components.model_repository import config as registry_config
from components.realtime import mosquitto_config
from components.triton import config as triton_config
from components.workload import TRUST_CONFIG_MAP
from configs.schema import Environment, load
from rehearsal import paths
from rehearsal.credentials import private_half
from rehearsal.errors import EstateError
from rehearsal.kube import Api, ApiError
from rehearsal.rehearsal import LOCAL, Rehearsal
from services import tokens
from services.sending import Door

SENSORS_TOPIC = "sensors.raw"
DEAD_LETTERS_TOPIC = "sensors.dead-letter"
TRANSFER = f"transfer.{transfer_config.NAMESPACE}.svc.cluster.local"
SERVING = triton_config.NAMESPACE
_REGISTRY = f"https://{registry_config.HOST}"
INFERENCE = f"https://{triton_config.HOST}:{triton_config.PORT}"
_LAKE = transfer_config.NAMESPACE
_S3_SECRET = f"s3-{transfer_config.USER}"
_READER = f"s3-{pipeline_config.READER}"
_RENEW_S = 600.0
DRILL_TOPIC = "estate.verify"
"""Declared for checks; replicated like any other, kept for an hour only."""


@dataclass(frozen=True)
class Access:
    """Addresses inside the cluster and the passwords of the users that the clients take."""

    ca: str = field(repr=False)
    mqtt_passwords: Mapping[str, str] = field(repr=False)
    kafka_passwords: Mapping[str, str] = field(repr=False)
    postgres_user: str
    postgres_password: str = field(repr=False)
    database: str
    mqtt_host: str = "mosquitto.realtime.svc.cluster.local"
    mqtt_port: int = mosquitto_config.PORT
    kafka_bootstrap: str = f"kafka.datalake.svc.cluster.local:{kafka_files.CLIENTS_PORT}"
    pool_host: str = "pgpool.datalake.svc.cluster.local"
    pool_port: int = pgpool_config.PORT
    primary_host: str = "postgres-rw.datalake.svc.cluster.local"
    primary_port: int = postgres_config.PORT
    token_key: str = field(default="", repr=False)
    """What signs tokens of image transfer; empty where that is not."""
    s3_access_key: str = field(default="", repr=False)
    s3_secret_key: str = field(default="", repr=False)
    s3_endpoint: str = f"https://s3.{transfer_config.NAMESPACE}.svc.cluster.local:443"
    s3_verify_key: str = field(default="", repr=False)
    """Secret key of the user `verify`; empty where no object store is."""
    reader_access_key: str = field(default="", repr=False)
    reader_secret_key: str = field(default="", repr=False)
    reader_password: str = field(default="", repr=False)
    """Of role and user `console`, who may read what the pipeline stores; empty without it."""
    mongodb_host: str = "mongodb.datalake.svc.cluster.local"
    mongodb_password: str | None = field(default=None, repr=False)
    """Of user `verify`; None where the rehearsal has no documents."""
    model_registry: str = f"{_REGISTRY}:{registry_config.READ_PORT}"
    model_registry_writes: str = f"{_REGISTRY}:{registry_config.PUBLISH_PORT}"
    model_reader: str = registry_config.READER
    model_reader_password: str = field(default="", repr=False)
    """Empty, as all of models, where none is served."""
    model_publisher: str = registry_config.PUBLISHER
    model_publisher_password: str = field(default="", repr=False)
    model_trust: str = ""
    """Public keys (PEM, one after another) of which one must have signed a version."""
    model_signing_key: str = field(default="", repr=False)

    def to_json(self) -> str:
        """One line, for the standard input of a process inside."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Access:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))

    # -- clients -----------------------------------------------------------------------------

    def tls_context(self) -> ssl.SSLContext:
        """What verifies servers by the estate's authority."""
        return ssl.create_default_context(cadata=self.ca)

    def mqtt_client(
        self, user: str, client_id: str, tls: ssl.SSLContext | None = None, **options: Any
    ) -> mqtt.Client:
        """An MQTT 5 client with TLS and the user's password; not yet connected.

        It keeps paho's 20 unacknowledged messages: Mosquitto announces the same number as its
        Receive Maximum, which paho does not read, and ends connections that exceed it.
        """
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            **options,
        )
        client.username_pw_set(user, self.mqtt_passwords[user])
        client.tls_set_context(tls or self.tls_context())
        client.reconnect_delay_set(min_delay=1, max_delay=2)
        client.connect_timeout = 5.0
        return client

    def kafka_options(self, user: str, **extra: Any) -> dict[str, Any]:
        """The settings of librdkafka for a user (TLS, SCRAM); `_` in a name stands for a dot."""
        return {
            "bootstrap.servers": self.kafka_bootstrap,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": self.kafka_passwords[user],
            "ssl.ca.pem": self.ca,
            "client.id": f"estate-{user}",
            "reconnect.backoff.max.ms": 1000,
            **{
                # Callbacks belong to the Python client, which names them as Python does.
                key if key.endswith("_cb") else key.replace("_", "."): value
                for key, value in extra.items()
            },
        }

    def door(self) -> Door:
        """Where images are sent, from inside the cluster."""
        key = self.token_key.encode()
        return Door(
            f"https://{TRANSFER}{transfer_config.BASE_PATH}",
            TRANSFER,
            self.ca,
            renewed(lambda: tokens.issue(key, "estate")),
        )

    def dsn(self, folder: Path, *, direct: bool = False) -> str:
        """A connection string: through Pgpool, or `direct` to the primary's service.

        `folder` takes the authority's certificate, because libpq wants a file.
        """
        authority = folder / "ca.crt"
        if not authority.exists():
            authority.write_text(self.ca)
        return make_conninfo(
            host=self.primary_host if direct else self.pool_host,
            port=self.primary_port if direct else self.pool_port,
            dbname=self.database,
            user=self.postgres_user,
            password=self.postgres_password,
            sslmode="verify-full",
            sslrootcert=str(authority),
        )


def of(rehearsal: Rehearsal) -> Access:
    """The access to a running rehearsal.

    Raises EstateError when it has no real node, or a part or secret is not there.
    """
    if rehearsal.required().mode != "node":
        raise EstateError(
            f"rehearsal {rehearsal.name}",
            f"all its nodes are simulated ({rehearsal.required().reason})",
            "this command needs a real node: see ./estate doctor for what is missing",
        )
    environment = load(paths.root() / "configs" / f"Pulumi.{LOCAL}.yaml")
    mosquitto = _declared(environment, "mosquitto")
    kafka = _declared(environment, "kafka")
    postgres = _declared(environment, "postgres")
    documents = environment.with_profiles(rehearsal.required().profiles).mongodb
    users = documents.users if documents is not None else []

    def secret(name: str) -> str:
        file = rehearsal.folder / "secrets" / name
        try:
            return file.read_text().rstrip("\n")
        except OSError as error:
            raise EstateError(
                f"secret {file}", error.strerror or error, "run ./estate up, which makes it"
            ) from None

    def password(ref: SecretRef) -> str:
        return secret(str(ref.file))

    here = environment.with_profiles(rehearsal.required().profiles)
    lake, pipeline = here.transfer is not None, here.pipeline is not None
    objects = here.ceph is not None
    models = here.model_repository
    keys = models.key_files() if models is not None else []
    signs = private_half(keys)
    return Access(
        ca=authority(rehearsal),
        token_key=lake_secret(rehearsal, transfer_config.TOKEN_SECRET, "tls.key") if lake else "",
        s3_access_key=lake_secret(rehearsal, _S3_SECRET, "access-key") if objects else "",
        s3_secret_key=lake_secret(rehearsal, _S3_SECRET, "secret-key") if objects else "",
        s3_verify_key=(
            lake_secret(rehearsal, f"s3-{ceph_config.VERIFY_USER}", "secret-key") if objects else ""
        ),
        reader_access_key=lake_secret(rehearsal, _READER, "access-key") if pipeline else "",
        reader_secret_key=lake_secret(rehearsal, _READER, "secret-key") if pipeline else "",
        reader_password=(
            lake_secret(rehearsal, f"postgres-{pipeline_config.READER}", "password")
            if pipeline
            else ""
        ),
        mqtt_passwords={user.name: password(user.password) for user in mosquitto.everyone},
        kafka_passwords={user.name: password(user.password) for user in kafka.users},
        postgres_user=postgres.owner.name,
        postgres_password=password(postgres.owner.password),
        database=postgres.database,
        model_reader_password=password(models.reader) if models is not None else "",
        model_publisher_password=password(models.publisher) if models is not None else "",
        model_trust="\n".join(map(secret, keys)),
        model_signing_key=secret(signs) if signs is not None else "",
        mongodb_password=next((password(u.password) for u in users if u.name == VERIFY_USER), None),
    )


def _declared(environment: Environment, part: str) -> Any:
    found = getattr(environment, part, None)
    if found is None:
        raise EstateError(
            f"configs/Pulumi.{LOCAL}.yaml: {part}", "is not declared", "declare it, then run up"
        )
    return found


def authority(rehearsal: Rehearsal) -> str:
    """The certificates that clients trust. Raises EstateError."""
    api = Api(rehearsal.kubeconfig)
    try:
        found = api.get(api.path("v1", "ConfigMap", "realtime", TRUST_CONFIG_MAP))
    except ApiError as error:
        raise EstateError(
            f"rehearsal {rehearsal.name}", error, f"run: ./estate up --name {rehearsal.name}"
        ) from None
    if found is None:
        raise EstateError(
            f"rehearsal {rehearsal.name}",
            f"its authority (ConfigMap {TRUST_CONFIG_MAP}) is not there",
            f"run: ./estate up --name {rehearsal.name}",
        )
    return str(found["data"]["ca.crt"])


def lake_secret(rehearsal: Rehearsal, name: str, key: str) -> str:
    """A key of a Secret of the lake. Raises EstateError when it is not there."""
    api = Api(rehearsal.kubeconfig)
    try:
        found = api.get(api.path("v1", "Secret", _LAKE, name))
    except ApiError as error:
        raise EstateError(
            f"Secret {name}", error, f"see: ./estate status --name {rehearsal.name}"
        ) from None
    if found is None or key not in found.get("data", {}):
        raise EstateError(
            f"Secret {_LAKE}/{name}",
            f"has no {key}" if found else "is not there",
            f"run: ./estate up --profile lake --name {rehearsal.name}",
        )
    return base64.b64decode(found["data"][key]).decode()


def renewed(issue: Callable[[], str]) -> Callable[[], str]:
    """A token that is made anew before it ends."""
    lock = threading.Lock()
    kept: tuple[float, str] | None = None

    def token() -> str:
        nonlocal kept
        with lock:
            if kept is None or time.monotonic() > kept[0]:
                kept = time.monotonic() + _RENEW_S, issue()
            return kept[1]

    return token
