"""What the rotation drills judge by: real handshakes, and pgpool's turn taking in a real shell."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from components.datalake import pgpool_config
from components.datalake.pgpool_config import PgpoolConfig
from rehearsal.drills import visitors


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def chain(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def pem_key(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()


def issue(name: str, by: Pair | None = None) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signer = by.key if by else key
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    return Pair(made, key)


@pytest.fixture(scope="module")
def former() -> Pair:
    return issue("former authority")


@pytest.fixture(scope="module")
def new() -> Pair:
    return issue("new authority")


def test_a_former_certificate_is_refused_once_it_is_trusted_no_more(
    former: Pair, new: Pair
) -> None:
    leaf = issue("server", former)
    assert visitors.accepted(former.chain + new.chain, leaf.chain, leaf.pem_key) == ""
    refused = visitors.accepted(new.chain, leaf.chain, leaf.pem_key)
    assert "unable to get local issuer certificate" in refused


@pytest.fixture
def server(former: Pair, tmp_path: Path) -> Iterator[tuple[int, Pair]]:
    """A server that wants clients' certificates of the former authority, and then waits."""
    leaf = issue("server", former)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*visitors._written(tmp_path, leaf.chain, leaf.pem_key))
    context.load_verify_locations(cadata=former.chain)
    context.verify_mode = ssl.CERT_OPTIONAL
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            if plain.recv(1, socket.MSG_PEEK) == b"\0":
                plain.sendall(b"S" if len(plain.recv(8)) == 8 else b"N")
            try:
                with context.wrap_socket(plain, server_side=True) as one:
                    one.recv(1)
            except OSError:
                plain.close()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], leaf
    listener.close()


@pytest.mark.parametrize("postgres", [False, True])
def test_the_serial_number_is_what_the_server_presents(
    server: tuple[int, Pair], postgres: bool
) -> None:
    port, leaf = server
    target = {"host": "127.0.0.1", "port": port, "postgres": postgres}
    assert visitors.presented(target) == f"{leaf.certificate.serial_number:x}"


def test_who_presents_nothing_is_named_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = visitors.presented({"host": "127.0.0.1", "port": port, "postgres": False})
    assert found.startswith("ConnectionRefusedError")


def test_a_client_of_a_foreign_authority_is_refused(
    server: tuple[int, Pair], former: Pair, new: Pair
) -> None:
    port, _ = server
    known, foreign = issue("client", former), issue("client", new)
    assert visitors.admitted("127.0.0.1", port, known.chain, known.pem_key) == ""
    assert visitors.admitted("127.0.0.1", port, foreign.chain, foreign.pem_key) != ""


# -- pgpool takes its certificate in turns -------------------------------------------------------

PGPOOL = f"""\
#!{sys.executable}
# Stands in for pgpool: says when it starts and by which signal it is told to end.
import os, signal, sys, time
def say(text):
    with open(os.environ["LOG"], "a") as log:
        log.write(text + "\\n")
def smart(*_):
    say("smart")
    if not os.path.exists(os.environ["BUSY"]):
        sys.exit(0)
def fast(*_):
    say("fast")
    sys.exit(0)
# As pgpool does, and a shell could not: what it starts in the background ignores this signal.
signal.signal(signal.SIGINT, fast)
signal.signal(signal.SIGTERM, smart)
say("start " + open(os.environ["TLS"] + "/tls.crt").read())
while True:
    time.sleep(0.1)
"""


class Pool:
    """serve.sh as replica 0 or 1, its waits cut down, with a stand-in for the program."""

    def __init__(self, tmp: Path, monkeypatch: pytest.MonkeyPatch, ordinal: int) -> None:
        for name in ("bin", "tls", "run"):
            (tmp / name).mkdir()
        monkeypatch.setattr(pgpool_config, "TLS", str(tmp / "tls"))
        monkeypatch.setattr(pgpool_config, "RUN", str(tmp / "run"))
        monkeypatch.setattr(pgpool_config, "_LEAVE_S", 1)
        monkeypatch.setattr(pgpool_config, "_SKEW_S", -18)
        script = pgpool_config.serve(PgpoolConfig(drain_s=5)).replace("sleep 5 &", "sleep 0.2 &")
        (tmp / "serve.sh").write_text(script)
        (tmp / "bin" / "pgpool").write_text(PGPOOL)
        (tmp / "bin" / "pgpool").chmod(0o755)
        self.certificate, self.log = tmp / "tls" / "tls.crt", tmp / "log"
        self.draining, self.busy = tmp / "run" / "draining", tmp / "busy"
        self.certificate.write_text("one")
        self.process = subprocess.Popen(
            ["/bin/sh", str(tmp / "serve.sh")],
            env={
                "PATH": f"{tmp / 'bin'}:{os.defpath}",
                "HOSTNAME": f"pgpool-{ordinal}",
                "TLS": str(tmp / "tls"),
                "LOG": str(self.log),
                "BUSY": str(self.busy),
            },
            start_new_session=True,
        )

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def until(self, *expected: str, limit_s: float = 20) -> float:
        began = time.monotonic()
        while self.lines() != list(expected):
            assert time.monotonic() - began < limit_s, self.lines()
            time.sleep(0.05)
        return time.monotonic() - began

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Pool]:
    made = Pool(tmp_path, monkeypatch, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("pool", [0], indirect=True)
def test_a_renewed_certificate_drains_and_starts_again(pool: Pool) -> None:
    pool.until("start one")
    pool.certificate.write_text("two")
    pool.until("start one", "smart", "start two")
    assert not pool.draining.exists()
    assert pool.process.poll() is None


@pytest.mark.parametrize("pool", [1], indirect=True)
def test_the_second_replica_waits_for_the_first(pool: Pool) -> None:
    pool.until("start one")
    pool.certificate.write_text("two")
    assert pool.until("start one", "smart", "start two") > 3, "its turn is at 3 s"


@pytest.mark.parametrize("pool", [0], indirect=True)
def test_sessions_that_stay_are_cut_after_the_drain(pool: Pool) -> None:
    pool.until("start one")
    pool.busy.touch()
    pool.process.send_signal(signal.SIGTERM)
    pool.until("start one", "smart", "fast")
    assert pool.process.wait(5) == 0


@pytest.mark.parametrize("pool", [0], indirect=True)
def test_a_pool_that_dies_takes_its_container_along(pool: Pool) -> None:
    pool.until("start one")
    found = subprocess.run(
        ["pkill", "-KILL", "-g", str(pool.process.pid), "-f", "bin/pgpool"], check=False
    )
    assert found.returncode == 0
    assert pool.process.wait(10) != 0
