"""Probes of the documents, by pymongo as every client speaks to them."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pymongo import ASCENDING, MongoClient, ReadPreference, WriteConcern
from pymongo.errors import ConnectionFailure, OperationFailure

from tests.state.probes import ProbeContext, probe

Client = MongoClient[dict[str, Any]]
Secret = Mapping[str, Any]

TIMEOUT_MS = 8000
APPLY_WAIT_S = 10.0
"""A member of a replica set applies a write within milliseconds; this bounds a loaded machine."""
AUTHENTICATION_FAILED, UNAUTHORIZED = 18, 13  # codes of MongoDB's errors


def _client(
    ctx: ProbeContext,
    ca: Secret,
    host: str,
    port: int,
    login: tuple[str, str] | None,
    **options: Any,
) -> Client:
    """A client of one server or replica set, verified by the estate's CA."""
    file = Path(ctx.tmp, f"ca-{ca['secret']}.crt")
    file.write_bytes(ctx.secret(ca))
    if login is not None:
        options["username"], options["password"] = login
    return Client(
        host,
        port,
        tls=True,
        tlsCAFile=str(file),
        serverSelectionTimeoutMS=TIMEOUT_MS,
        connectTimeoutMS=TIMEOUT_MS,
        socketTimeoutMS=TIMEOUT_MS,
        **options,
    )


def _options(replica_set: str | None) -> dict[str, Any]:
    return {"replicaSet": replica_set} if replica_set is not None else {}


@probe("mongodb_round_trip")
def mongodb_round_trip(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    replica_set: str | None,
    ca: Secret,
    username: str,
    password: Secret,
    database: str,
) -> str:
    """Insert, index, find, change, count and aggregate in a collection of this probe's own."""
    login = (username, ctx.secret(password).decode())
    began = time.monotonic()
    with _client(ctx, ca, host, port, login, **_options(replica_set)) as client:
        numbers = client[database][f"round_trip_{uuid.uuid4().hex[:12]}"]
        try:
            documents = [{"_id": n, "n": n, "even": n % 2 == 0} for n in range(200)]
            inserted = numbers.insert_many(documents).inserted_ids
            assert len(inserted) == 200, f"{len(inserted)} of 200 documents were acknowledged"
            numbers.create_index([("n", ASCENDING)], unique=True)
            assert "n_1" in numbers.index_information(), "the index is not listed"
            found = list(numbers.find({"n": {"$gte": 50}}).sort("n", -1))
            assert [one["n"] for one in found] == list(range(199, 49, -1)), "find answers others"
            changed = numbers.update_many({"even": True}, {"$inc": {"n": 1000}}).modified_count
            assert changed == 100, f"{changed} of 100 documents were changed"
            groups = numbers.aggregate([{"$group": {"_id": "$even", "sum": {"$sum": "$n"}}}])
            sums = {one["_id"]: one["sum"] for one in groups}
            assert sums == {True: 109_900, False: 10_000}, f"aggregate answers {sums}"
            deleted = numbers.delete_many({}).deleted_count
            assert deleted == 200, f"{deleted} of 200 documents were deleted"
        finally:
            numbers.drop()
    return f"200 documents in {(time.monotonic() - began) * 1000:.0f} ms"


@probe("mongodb_wrong_password")
def mongodb_wrong_password(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    replica_set: str | None,
    ca: Secret,
    username: str,
    password: Secret,
    database: str,
) -> str:
    """A client without a password, and one with a wrong one, must be refused for that."""
    secret = ctx.secret(password).decode()
    refused = []
    for what, login, code in (
        ("without a password", None, UNAUTHORIZED),
        ("with a wrong password", (username, f"{secret}x"), AUTHENTICATION_FAILED),
    ):
        with _client(ctx, ca, host, port, login, **_options(replica_set)) as client:
            try:
                client[database]["any"].find_one()
            except OperationFailure as error:
                assert error.code == code, f"{what} refused for another reason: {error}"
                refused.append(f"{what}: {error.code}")
            else:
                raise AssertionError(f"{host} answers a client {what}")
    # The right one last: a server that refuses everybody is no better than one that is down.
    with _client(ctx, ca, host, port, (username, secret), **_options(replica_set)) as client:
        client[database]["any"].find_one()
    return f"refused {', '.join(refused)}"


@probe("mongodb_encrypted")
def mongodb_encrypted(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    replica_set: str | None,
    ca: Secret,
    username: str,
    password: Secret,
) -> str:
    """A client that speaks the protocol without TLS gets no answer, one with it does."""
    plain = Client(host, port, directConnection=True, serverSelectionTimeoutMS=3000)
    try:
        plain.admin.command("ping")
    except ConnectionFailure:
        pass
    else:
        raise AssertionError(f"{host}:{port} answers without TLS")
    finally:
        plain.close()
    login = (username, ctx.secret(password).decode())
    with _client(ctx, ca, host, port, login, **_options(replica_set)) as client:
        client.admin.command("ping")
    return "no answer without TLS; with it, verified by the estate's CA"


@probe("mongodb_declared")
def mongodb_declared(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    replica_set: str | None,
    ca: Secret,
    username: str,
    password: Secret,
    users: list[dict[str, Any]],
    authorization: bool,
) -> str:
    """Each user reads his databases; where there is authorization, he writes to no others."""
    problems = []
    for user in users:
        name, secret = user["username"], ctx.secret(user["password"]).decode()
        with _client(ctx, ca, host, port, (name, secret), **_options(replica_set)) as client:
            try:
                for access in user["access"]:
                    client[access["database"]]["any"].find_one()
                    if authorization and not access["write"]:
                        _may_not_write(client, name, access["database"])
            except OperationFailure as error:
                problems.append(f"{name}: {error.details or error}")
    assert not problems, "; ".join(problems)
    if authorization:
        return f"{len(users)} users, who may write where declared"
    login = (username, ctx.secret(password).decode())
    with _client(ctx, ca, host, port, login) as client:
        kept = {one["user"] for one in client.admin.command("usersInfo", 1)["users"]}
    undeclared = kept - {user["username"] for user in users}
    assert not undeclared, f"users that are not declared: {', '.join(sorted(undeclared))}"
    return f"{len(users)} users, and no other"


def _may_not_write(client: Client, name: str, database: str) -> None:
    try:
        client[database]["estate_verify"].insert_one({})
    except OperationFailure as error:
        assert error.code == UNAUTHORIZED, f"{name} refused for another reason: {error}"
    else:
        raise AssertionError(f"{name} may write to {database}")


@probe("mongodb_replicas")
def mongodb_replicas(
    ctx: ProbeContext,
    *,
    host: str,
    port: int,
    replica_set: str | None,
    ca: Secret,
    username: str,
    password: Secret,
    database: str,
    namespace: str,
    selector: str,
    replicas: int,
) -> str:
    """What one replica acknowledges to all, in a collection that it has just made, others have."""
    pods = [pod for pod in ctx.pods(namespace, selector) if "podIP" in pod["status"]]
    assert len(pods) == replicas, f"{len(pods)} of {replicas} replicas of {selector} exist"
    login = (username, ctx.secret(password).decode())
    # A pod's address is in no certificate; that one is of the estate's CA is verified.
    direct: dict[str, Any] = {"directConnection": True, "tlsAllowInvalidHostnames": True}
    clients = {
        pod["metadata"]["name"]: _client(ctx, ca, pod["status"]["podIP"], port, login, **direct)
        for pod in pods
    }
    try:
        writers = [
            name
            for name, client in clients.items()
            if client.admin.command("hello")["isWritablePrimary"]
        ]
        expected = 1 if replica_set is not None else replicas
        assert len(writers) == expected, f"{len(writers)} of {replicas} replicas take writes"
        # Replicas on one database have it at once; members of a set apply it a moment later.
        wait_s = APPLY_WAIT_S if replica_set is not None else 0.0
        for writer in writers:
            _read_everywhere(clients, writer, database, wait_s)
    finally:
        for client in clients.values():
            client.close()
    return f"{replicas} replicas, {len(writers)} of them take writes"


def _read_everywhere(
    clients: Mapping[str, Client], writer: str, database: str, wait_s: float
) -> None:
    name = f"replicas_{uuid.uuid4().hex[:12]}"
    written = clients[writer][database].get_collection(name, write_concern=WriteConcern("majority"))
    written.insert_one({"_id": socket.gethostname(), "by": writer})
    try:
        for reader, client in clients.items():
            read = client[database].get_collection(
                name, read_preference=ReadPreference.SECONDARY_PREFERRED
            )
            deadline = time.monotonic() + wait_s
            while (found := read.find_one()) is None or found["by"] != writer:
                assert time.monotonic() < deadline, f"{reader} does not have what {writer} wrote"
                time.sleep(0.05)
    finally:
        written.drop()
