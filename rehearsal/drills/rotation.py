"""Every certificate issued anew, and the authority replaced by one with a new key, under load.

Done as on any cluster: certificates by cert-manager's own mark for a renewal (what `cmctl renew`
sets), the authority by three deployments (ADR 18). No client may fail: nothing acknowledged is
lost, and no client library hands an error to its application.
"""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from components.authority import named
from components.datalake import kafka_files
from components.workload import ISSUER, TRUST_CONFIG_MAP
from rehearsal import applied, paths
from rehearsal.drills.harness import Drill, Scene, pod_processes
from rehearsal.errors import EstateError
from rehearsal.kube import ApiError, Object, ready
from rehearsal.pulumi import Pulumi
from stacks.context import PKI_KEY

_CERT_MANAGER = "cert-manager.io/v1"
_INTERNAL = "kafka-internal-ca"
_TAKEN_OVER_S = 1200.0
"""A kubelet's minute and a half, then three brokers two minutes apart, and as much again."""
_WRITERS = (
    *("postgres-pooled", "postgres-direct", "kafka", "mqtt"),
    *("visits-pgpool", "visits-postgres", "visits-kafka", "visits-mqtt"),
)


@dataclass(frozen=True)
class Server:
    """Pods that present the certificate of a Secret on these ports.

    `trust` are files of its containers with whom they trust: the estate's bundle, or with
    `internal` Kafka's own authorities.
    """

    namespace: str
    selector: str
    secret: str
    ports: tuple[int, ...]
    postgres: bool = False
    trust: tuple[str, ...] = ()
    internal: bool = False


SERVERS = (
    Server("datalake", "app.kubernetes.io/name=kafka", "kafka-tls", (9093,)),
    Server(
        *("datalake", "app.kubernetes.io/name=kafka", "kafka-internal-tls", (9090, 9091)),
        trust=(f"{kafka_files.RUN}/internal-trust.pem",),
        internal=True,
    ),
    Server(
        *("datalake", "app.kubernetes.io/name=pgpool", "pgpool-tls", (5432,), True),
        trust=("/etc/pgpool/trust/ca.crt",),
    ),
    Server(
        *("datalake", "cnpg.io/cluster=postgres,cnpg.io/podRole=instance", "postgres-server"),
        *((5432,), True),
        trust=("/controller/certificates/server-ca.crt", "/controller/certificates/client-ca.crt"),
    ),
    Server(
        *("datalake", "cnpg.io/cluster=postgres,cnpg.io/podRole=instance", "postgres-server"),
        (9187,),
    ),
    Server(
        *("realtime", "app.kubernetes.io/name=mosquitto", "mosquitto-tls", (8883,)),
        trust=("/exporter/tls/ca.crt",),
    ),
    Server(
        *("monitoring", "app.kubernetes.io/name=prometheus", "prometheus-tls", (9090,)),
        trust=("/etc/prometheus/certs/*_estate-ca_ca.crt",),
    ),
    Server("monitoring", "app.kubernetes.io/name=alertmanager", "alertmanager-tls", (9093,)),
    Server("platform", "app.kubernetes.io/name=cloudnative-pg", "cnpg-webhook-tls", (9443,)),
)


class Rotation:
    """The steps of both drills, done in a thread while the writers write."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._api = scene, scene.api
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def begin(self, steps: Callable[[], None]) -> Callable[[], bool]:
        """Start; the function returned says whether all is done, and raises what went wrong."""

        def run() -> None:
            try:
                steps()
            except ApiError as error:
                self._error = EstateError("Kubernetes API", error, "run: ./estate status")
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="rotation", daemon=True)
        self._thread.start()

        def done() -> bool:
            assert self._thread is not None
            if self._thread.is_alive():
                return False
            if self._error is not None:
                raise self._error
            return True

        return done

    # -- what is there ---------------------------------------------------------------------------

    def certificates(self) -> list[Object]:
        """All certificates but those of authorities."""
        found = self._api.items(_CERT_MANAGER, "Certificate")
        return [one for one in found if not one["spec"].get("isCA")]

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        """A Secret's values. Raises EstateError when it is not there."""
        found = self._api.get(self._api.path("v1", "Secret", namespace, name))
        if found is None:
            raise EstateError(f"Secret {namespace}/{name}", "is not there", "run: ./estate up")
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    def leaf(self, namespace: str, name: str) -> x509.Certificate:
        """The certificate in a Secret, without what follows in its chain."""
        return x509.load_pem_x509_certificates(self.secret(namespace, name)["tls.crt"].encode())[0]

    def serials(self) -> dict[tuple[str, str], int]:
        """Serial number by namespace and Secret."""
        names = [
            (one["metadata"]["namespace"], str(one["spec"]["secretName"]))
            for one in self.certificates()
        ]
        return {name: self.leaf(*name).serial_number for name in names}

    def bundle(self) -> str:
        """What every namespace trusts."""
        path = self._api.path("v1", "ConfigMap", "datalake", TRUST_CONFIG_MAP)
        return str((self._api.get(path) or {})["data"]["ca.crt"])

    def _pods(self, server: Server) -> list[Object]:
        query = {"labelSelector": server.selector}
        path = self._api.path("v1", "Pod", server.namespace)
        found: list[Object] = self._api.request("GET", path, query=query)["items"]
        return found

    # -- waiting ---------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """A line of the timeline."""
        self._scene.notes.append((time.monotonic(), text))

    def until(self, what: str, left: Callable[[], list[str]]) -> None:
        """Wait until nothing is left. Raises EstateError with what is, after _TAKEN_OVER_S."""
        end, waiting = time.monotonic() + _TAKEN_OVER_S, ["all"]
        while waiting:
            with contextlib.suppress(ApiError):
                waiting = left()
            if waiting and time.monotonic() > end:
                raise EstateError(what, f"not after {_TAKEN_OVER_S:.0f} s", "; ".join(waiting[:6]))
            time.sleep(1 if waiting else 0)
        self.note(what)

    def not_presented(self) -> list[str]:
        """Servers that present another certificate than their Secret has, or are not ready."""
        targets, expected, lacking = [], [], []
        for server in SERVERS:
            serial = f"{self.leaf(server.namespace, server.secret).serial_number:x}"
            pods = self._pods(server)
            lacking += [] if pods else [f"{server.selector}: no pod"]
            for pod in pods:
                name = pod["metadata"]["name"]
                lacking += [] if ready(pod) else [f"{name} is not ready"]
                for port in server.ports:
                    targets.append(
                        {
                            "host": pod["status"].get("podIP", "none"),
                            "port": port,
                            "postgres": server.postgres,
                        }
                    )
                    expected.append((f"{name}:{port}", serial))
        found = self._scene.ask("presented", targets=targets)["serials"]
        return lacking + [
            f"{where} presents {serial}"
            for (where, wanted), serial in zip(expected, found, strict=True)
            if serial != wanted
        ]

    def not_trusting(self) -> list[str]:
        """Files of pods that hold other authorities than are declared, or none."""
        generation, also = self.declared()
        internal = "".join(
            self.secret("datalake", named(_INTERNAL, one))["tls.crt"] for one in {generation, *also}
        )
        lacking = []
        for server in SERVERS:
            wanted = _fingerprints(internal if server.internal else self.bundle())
            for pod in self._pods(server) if server.trust else []:
                for pattern in server.trust:
                    found = list(self._files(pod, pattern))
                    if not found or any(_fingerprints(text) != wanted for text in found):
                        lacking.append(f"{pod['metadata']['name']}: {pattern}")
        return lacking

    def _files(self, pod: Object, pattern: str) -> Iterator[str]:
        """A file as the processes of a pod see it, once per container that has it."""
        seen = set()
        for process in pod_processes(self._scene.rehearsal, pod):
            root = f"/proc/{process.pid}/root"
            with contextlib.suppress(OSError):
                folder, _, name = pattern.rpartition("/")
                for file in sorted(Path(root + folder).glob(name)):
                    key = (file.stat().st_dev, file.stat().st_ino)
                    if key not in seen:
                        seen.add(key)
                        yield file.read_text()

    # -- doing -----------------------------------------------------------------------------------

    def renew(self) -> None:
        """Mark every certificate for renewal, as `cmctl renew --all` does."""
        for one in self.certificates():
            conditions = [
                *(c for c in one.get("status", {}).get("conditions", []) if c["type"] != "Issuing"),
                {
                    "type": "Issuing",
                    "status": "True",
                    "reason": "ManuallyTriggered",
                    "message": "estate drill certificates",
                    "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "observedGeneration": one["metadata"]["generation"],
                },
            ]
            path = self._api.path_of(one) + "/status"
            self._api.merge(path, {"status": {"conditions": conditions}})

    def deploy(self, what: str, **pki: Any) -> None:
        """`pulumi up` with these values of `pki:` in the rehearsal's own settings."""
        rehearsal = self._scene.rehearsal
        applied.forget(rehearsal)
        settings = yaml.safe_load(rehearsal.stack_settings.read_text()) or {}
        settings.setdefault("config", {})[f"estate:{PKI_KEY}"] = pki
        paths.replace(rehearsal.stack_settings, yaml.safe_dump(settings))
        with (rehearsal.folder / "logs" / "drill-pulumi.log").open("a") as log:
            if not Pulumi(rehearsal, progress=log).up(refresh=False):
                raise EstateError("pulumi up", what, f"see {log.name}")
        self.note(f"deployed: {what}")

    def declared(self) -> tuple[int, list[int]]:
        """The generation that signs, and those that are trusted beside it."""
        settings = yaml.safe_load(self._scene.rehearsal.stack_settings.read_text()) or {}
        found = settings.get("config", {}).get(f"estate:{PKI_KEY}") or {}
        return int(found.get("generation", 1)), list(found.get("also_trusted", []))


def _fingerprints(pem: str) -> set[bytes]:
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return set()
    return {one.fingerprint(hashes.SHA256()) for one in found}


def _renew(scene: Scene) -> tuple[str, Callable[[], bool]]:
    rotation = Rotation(scene)
    before = rotation.serials()

    def steps() -> None:
        rotation.until("before: every server presents its certificate", rotation.not_presented)
        rotation.renew()
        rotation.until(
            f"{len(before)} certificates are issued anew",
            lambda: [
                "/".join(name) for name, one in rotation.serials().items() if one == before[name]
            ],
        )
        rotation.until("every server presents its new certificate", rotation.not_presented)

    return f"{len(before)} certificates marked for renewal", rotation.begin(steps)


def _replace(scene: Scene) -> tuple[str, Callable[[], bool]]:
    rotation = Rotation(scene)
    signing, also = rotation.declared()
    # One that was interrupted goes on with the same two: each step may be done again.
    former, new = sorted([signing, *also]) if also else (signing, signing + 1)
    old = rotation.secret("datalake", "pgpool-tls")
    admin = rotation.secret("datalake", "kafka-admin")
    insider = {
        "host": "kafka-0.kafka-brokers.datalake.svc.cluster.local",
        "port": 9091,
        "chain": admin["tls.crt"],
        "key": admin["tls.key"],
    }

    def judged() -> tuple[str, str]:
        """How a server, and a client, with a certificate of the former generation fare."""
        chain, key = old["tls.crt"], old["tls.key"]
        return (
            scene.ask("accepted", trust=rotation.bundle(), chain=chain, key=key)["reason"],
            scene.ask("admitted", client=insider)["reason"],
        )

    def trusted() -> None:
        rotation.until("every server trusts the bundle", rotation.not_trusting)
        scene.ask("trust", pem=rotation.bundle())
        rotation.note("the clients trust the bundle")

    def foreign() -> list[str]:
        authority = x509.load_pem_x509_certificate(
            rotation.secret("platform", named(ISSUER, new))["tls.crt"].encode()
        )
        internal = x509.load_pem_x509_certificate(
            rotation.secret("datalake", named(_INTERNAL, new))["tls.crt"].encode()
        )
        return [
            "/".join(name)
            for name in rotation.serials()
            if rotation.leaf(*name).issuer not in (authority.subject, internal.subject)
        ]

    def steps() -> None:
        rotation.until("before: every server presents its certificate", rotation.not_presented)
        rotation.deploy(f"{new} trusted beside {former}", generation=former, also_trusted=[new])
        trusted()
        rotation.deploy(f"{new} signs", generation=new, also_trusted=[former])
        rotation.until(f"every certificate is of generation {new}", foreign)
        rotation.until("every server presents its new certificate", rotation.not_presented)
        if any(reasons := judged()):
            raise EstateError("former certificates", f"refused too early: {reasons}", "see ADR 18")
        rotation.deploy(f"{former} trusted no more", generation=new)
        trusted()
        rotation.until("every server answers", rotation.not_presented)
        reasons = judged()
        if not all(reasons):
            raise EstateError("former certificates", f"still accepted: {reasons}", "see ADR 18")
        rotation.note(f"former server certificate refused: {reasons[0]}")
        rotation.note(f"former client certificate refused: {reasons[1]}")

    return f"generation {former} of the authority, by {new} with a new key", rotation.begin(steps)


CERTIFICATES = Drill(
    id="certificates",
    title="every certificate issued anew and taken over, under load; no client fails",
    writers=_WRITERS,
    target_s=15.0,
    strike=_renew,
    clients_may_fail=False,
    limit_s=2 * _TAKEN_OVER_S,
)

AUTHORITY = Drill(
    id="authority",
    title="the CA replaced by one with a new key, under load; no client fails",
    writers=_WRITERS,
    target_s=15.0,
    strike=_replace,
    clients_may_fail=False,
    limit_s=4 * _TAKEN_OVER_S,
)
