"""Inside the sandbox: clients that connect anew for each operation, and looks at who presents what.

A connection that is there outlives a change of certificates; a new one is verified with what is
trusted at that moment. So beside the writers, which keep theirs, a visitor per service connects,
writes, has it acknowledged and leaves, over and over. Each error is one that an application sees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as mqtt
import psycopg
from cryptography import x509
from psycopg import sql

from rehearsal import clients, paths
from rehearsal.access import DRILL_TOPIC, Access
from rehearsal.drills.record import Record, producer

if TYPE_CHECKING:
    from rehearsal.drills.writers import Writer

PAUSE_S = 1.0
_ANSWER_S = 15.0
# The SSLRequest of PostgreSQL's protocol: length 8, code 80877103.
_POSTGRES_TLS = bytes([0, 0, 0, 8, 4, 210, 22, 47])


class Visitor(threading.Thread):
    """Does one operation over a connection of its own every second, until it is told to stop."""

    def __init__(self, service: str, access: Access, folder: Path, run: str) -> None:
        name = f"visits-{service}"
        super().__init__(name=name, daemon=True)
        self.record = Record(name)
        self._access, self._folder, self._run_id = access, folder, run
        self._asked = threading.Event()
        self._visit: Callable[[int], None] = {
            "postgres": lambda number: self._postgres(number, direct=True),
            "pgpool": lambda number: self._postgres(number, direct=False),
            "kafka": self._kafka,
            "mqtt": self._mqtt,
        }[service]

    def trust(self, pem: str) -> None:
        """The next visit verifies with these certificates, and no others."""
        self._access = dataclasses.replace(self._access, ca=pem)
        paths.replace(self._folder / "ca.crt", pem)

    def run(self) -> None:
        """Visit until asked to stop."""
        while not self._asked.wait(PAUSE_S):
            number, self.record.attempts = self.record.attempts, self.record.attempts + 1
            before = self.record.failed
            try:
                self._visit(number)
            except (OSError, psycopg.Error, AssertionError) as error:
                self.record.note(f"failed: {str(error).splitlines()[0][:160]}")
                self.record.error(error)
            else:
                if self.record.failed == before:
                    self.record.acknowledge(number)

    def stop(self) -> dict[str, Any]:
        """What was counted; each visit has seen its own acknowledgement, so none can be lost."""
        self._asked.set()
        self.join(timeout=60)
        return self.record.summary({number for _, number, _ in self.record.acknowledged})

    def _postgres(self, number: int, *, direct: bool) -> None:
        """A row in a table that goes with the session, acknowledged at its commit."""
        dsn = self._access.dsn(self._folder, direct=direct)
        with psycopg.connect(dsn, connect_timeout=int(_ANSWER_S), prepare_threshold=None) as one:
            one.execute("CREATE TEMPORARY TABLE visit (number bigint) ON COMMIT DROP")
            one.execute("INSERT INTO visit VALUES (%s)", (number,))
            found = one.execute(sql.SQL("SELECT number FROM visit")).fetchone()
            assert found == (number,), f"wrote {number}, read {found}"

    def _kafka(self, number: int) -> None:
        one = producer(self._access, self.record)
        answers: list[str] = []
        one.produce(
            DRILL_TOPIC,
            f"visit-{self._run_id}:{number}".encode(),
            on_delivery=lambda error, _: answers.append(error.str() if error else ""),
        )
        one.flush(65)
        assert answers == [""], f"not delivered: {answers or 'no answer in 65 s'}"

    def _mqtt(self, number: int) -> None:
        """A message at QoS 1 that comes back."""
        done, answer = threading.Event(), [f"no answer in {_ANSWER_S:.0f} s"]
        one = self._access.mqtt_client("verify", f"visit-{self._run_id}-{number}")

        def connected(client: mqtt.Client, _: Any, __: Any, reason: Any, ___: Any) -> None:
            if reason.is_failure:
                answer[0] = str(reason)
                done.set()
            client.subscribe("estate/verify", qos=1)

        def message(_: Any, __: Any, received: mqtt.MQTTMessage) -> None:
            if received.payload == str(number).encode():
                answer[0] = ""
                done.set()

        one.on_connect = connected
        one.on_message = message
        one.on_subscribe = lambda client, *_: client.publish(
            "estate/verify", str(number).encode(), qos=1
        )
        try:
            one.connect(self._access.mqtt_host, self._access.mqtt_port, keepalive=30)
            one.loop_start()
            done.wait(_ANSWER_S)
        finally:
            one.disconnect()
            one.loop_stop()
        assert not answer[0], answer[0]


def make(kind: str, access: Access, folder: Path, run: str) -> Visitor | None:
    """The visitor of a kind `visits-<service>`; None for another kind."""
    head, _, service = kind.partition("-")
    return Visitor(service, access, folder, run) if head == "visits" else None


def answer(command: dict[str, Any], writers: Iterable[Writer]) -> None:
    """Do one of the commands of a rotation, and tell the result as an event of its name."""
    match command["command"]:
        case "trust":
            for writer in writers:
                writer.trust(command["pem"])
            clients.emit("trust")
        case "presented":
            clients.emit("presented", serials=[presented(one) for one in command["targets"]])
        case "accepted":
            clients.emit(
                "accepted", reason=accepted(command["trust"], command["chain"], command["key"])
            )
        case "admitted":
            clients.emit("admitted", reason=admitted(**command["client"]))


def presented(target: dict[str, Any]) -> str:
    """The serial number (hex) of the certificate that a server presents, or why there is none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((target["host"], target["port"]), 5) as plain:
            if target["postgres"]:
                plain.sendall(_POSTGRES_TLS)
                if plain.recv(1) != b"S":
                    return "no TLS"
            with context.wrap_socket(plain) as secured:
                found = secured.getpeercert(binary_form=True)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return f"{x509.load_der_x509_certificate(found).serial_number:x}" if found else "none"


def _written(folder: Path, chain: str, key: str) -> tuple[str, str]:
    """Files of a certificate and its key, because OpenSSL takes nothing else."""
    for name, text in (("tls.crt", chain), ("tls.key", key)):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    return str(folder / "tls.crt"), str(folder / "tls.key")


def accepted(trust: str, chain: str, key: str) -> str:
    """Why a client that trusts `trust` refuses a server with this certificate; empty: it does not.

    A server of our own on loopback, because no real one presents a certificate of former times.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="estate-drill-") as folder:
        server.load_cert_chain(*_written(Path(folder), chain, key))
    client = ssl.create_default_context(cadata=trust)
    client.check_hostname = False
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with contextlib.suppress(OSError), server.wrap_socket(theirs, server_side=True) as one:
            one.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        with client.wrap_socket(ours):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        ours.close()
        thread.join(5)


def admitted(host: str, port: int, chain: str, key: str) -> str:
    """Why a server refuses a client with this certificate; empty: it does not.

    In TLS 1.3 a client's certificate is judged after its handshake: it reads the refusal.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with tempfile.TemporaryDirectory(prefix="estate-drill-") as folder:
        context.load_cert_chain(*_written(Path(folder), chain, key))
    try:
        with (
            socket.create_connection((host, port), 5) as plain,
            context.wrap_socket(plain) as secured,
        ):
            secured.settimeout(3)
            return "closed" if not secured.recv(1) else ""
    except TimeoutError:
        return ""  # it waits for a request
    except OSError as error:
        return str(error)
