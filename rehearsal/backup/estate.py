"""What a backup needs of a rehearsal: who answers where, and who must be quiet meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.datalake import postgres_config
from components.datalake.mongodb_config import AUTH_DATABASE
from configs.schema import Environment, load
from rehearsal import access, paths
from rehearsal.clients import Clients
from rehearsal.errors import EstateError
from rehearsal.kube import Api, ApiError, Object
from rehearsal.rehearsal import LOCAL, Rehearsal
from services.backup.databases import Server
from services.backup.folder import Progress

_NAMESPACE = postgres_config.NAMESPACE
QUIET = (
    ("Deployment", "pipeline"),
    ("StatefulSet", "transfer"),
    ("Deployment", "console"),
    ("Deployment", "mongodb"),
)
"""Who writes by himself, reads groups' topics or caches what a restore replaces."""
_WAIT_S = 180.0


@dataclass(frozen=True)
class Subject:
    """A rehearsal with a real node, and what its declaration says."""

    rehearsal: Rehearsal
    environment: Environment

    @property
    def left_out(self) -> dict[str, list[str]]:
        """Database -> schemas that are its rehearsal's own: users of the documents, passwords."""
        documents = self.environment.mongodb
        if documents is None or documents.implementation != "ferretdb":
            return {}
        return {documents.on_postgres.database: [AUTH_DATABASE]}

    def server(self) -> Server:
        """PostgreSQL's primary, by `kubectl exec` as its superuser. Raises EstateError."""
        api = Api(self.rehearsal.kubeconfig)
        query = {"labelSelector": "cnpg.io/cluster=postgres,cnpg.io/instanceRole=primary"}
        try:
            pods = api.request("GET", api.path("v1", "Pod", _NAMESPACE), query=query)["items"]
        except ApiError as error:
            raise EstateError(f"rehearsal {self.rehearsal.name}", error, self._up) from None
        if len(pods) != 1:
            raise EstateError("PostgreSQL", f"{len(pods)} primaries", self._up)
        kubectl = str(self.rehearsal.folder / "bin" / "kubectl")
        pod = str(pods[0]["metadata"]["name"])
        command = [kubectl, "exec", "--stdin", "--namespace", _NAMESPACE, pod]
        return Server([*command, "--container", "postgres", "--"], self.rehearsal.environment())

    def clients(self) -> Clients:
        """The process inside that speaks with Kafka and S3."""
        ceph = self.environment.ceph
        objects = {
            bucket.name: [
                bucket.owner,
                access.lake_secret(self.rehearsal, f"s3-{bucket.owner}", "secret-key"),
            ]
            for bucket in (ceph.buckets if ceph is not None else ())
        }
        return Clients(
            self.rehearsal,
            "rehearsal.backup.inside",
            access.of(self.rehearsal),
            {"objects": objects},
        )

    @property
    def _up(self) -> str:
        return f"run: ./estate up --name {self.rehearsal.name}"


def subject(name: str) -> Subject:
    """A rehearsal that can be backed up and restored. Raises EstateError."""
    rehearsal = Rehearsal(name)
    rehearsal.is_of(LOCAL)
    record = rehearsal.required()
    if record.mode != "node":
        raise EstateError(
            f"rehearsal {name}",
            f"all its nodes are simulated ({record.reason}), so it holds no data",
            "this command needs a real node: see ./estate doctor for what is missing",
        )
    environment = load(paths.root() / "configs" / f"Pulumi.{LOCAL}.yaml")
    return Subject(rehearsal, environment.with_profiles(record.profiles))


def ask(worker: Clients, command: str, progress: Progress, **values: Any) -> dict[str, Any]:
    """Give the process inside a command and wait for its end, however long it takes."""
    worker.send(command, **values)
    while True:
        event = worker.event(600)
        if event is None:
            raise EstateError(f"backup's {command}", "nothing for ten minutes", "run it again")
        if event["event"] == command:
            return event
        if event["event"] == "progress":
            progress(f"{event['part']}: {event['row']}", event["done"], event["total"])


@contextlib.contextmanager
def quiet(rehearsal: Rehearsal, say: Callable[[str], None]) -> Iterator[None]:
    """Nobody of QUIET runs within the block; afterwards each has its replicas again.

    They come back after an error too: what is half restored is told, not hidden behind pods that
    are away.
    """
    api = Api(rehearsal.kubeconfig)
    found: dict[str, tuple[Object, int]] = {}
    for kind, name in QUIET:
        path = api.path("apps/v1", kind, _NAMESPACE, name)
        body = api.get(path)
        if body is not None:
            found[path] = body, int(body["spec"].get("replicas", 1))
    say(f"stopping {', '.join(name for _, name in QUIET)} for the restore")
    try:
        for path in found:
            api.merge(path, {"spec": {"replicas": 0}})
        for path, (body, _) in found.items():
            _wait(partial(_gone, api, body), f"pods of {path.rpartition('/')[2]} to end")
        yield
    finally:
        for path, (_, replicas) in found.items():
            api.merge(path, {"spec": {"replicas": max(replicas, 1)}})


def back(rehearsal: Rehearsal) -> None:
    """Wait until all of QUIET run again. Raises EstateError."""
    api = Api(rehearsal.kubeconfig)

    def runs() -> bool:
        for kind, name in QUIET:
            body = api.get(api.path("apps/v1", kind, _NAMESPACE, name))
            if body is None:
                continue
            status = body.get("status", {})
            if int(status.get("readyReplicas", 0)) < int(body["spec"].get("replicas", 1)):
                return False
        return True

    _wait(runs, "what was stopped to be ready again")


def _gone(api: Api, body: Mapping[str, Any]) -> bool:
    """Whether a workload has no pods."""
    labels = body["spec"]["selector"]["matchLabels"]
    query = {"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())}
    return not api.request("GET", api.path("v1", "Pod", _NAMESPACE), query=query)["items"]


def _wait(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(ApiError):
            if ready():
                return
        time.sleep(0.5)
    raise EstateError(
        "restore", f"waited {_WAIT_S:.0f} s for {what}", "run ./estate up, then restore again"
    )


def folder_of(given: Path | None) -> Path:
    """Where backups lie, made when it is not there, nobody else's to read."""
    if given is not None:
        return paths.ensure(given, "--to-folder", "give a folder that you may write").absolute()
    folder = paths.data() / "backups"
    paths.ensure(folder, "backups", "set ESTATE_DATA to a folder that you may write")
    folder.chmod(0o700)
    return folder.absolute()
