"""A broker whose certificate was renewed restarts only while the others answer: in a real shell."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.datalake import kafka_files as files

BROKER = """\
#!/bin/sh
echo started >> "$LOG"
trap 'echo stopped >> "$LOG"; exit 0' TERM
while :; do sleep 0.1 & wait $! || true; done
"""


class Broker:
    """serve.sh of one ordinal; its only peer is a listener of the test's. Waits are cut down."""

    def __init__(self, tmp: Path, ordinal: int, peer: int) -> None:
        self.log, self.certificate = tmp / "log", tmp / "tls" / "clients" / "tls.crt"
        for name in ("tls/clients", "tls/internal", "tls/internal-ca", "run", "etc"):
            (tmp / name).mkdir(parents=True)
        for name in ("clients/tls.crt", "clients/tls.key", "clients/ca.crt"):
            (tmp / "tls" / name).write_text("one")
        for name in ("internal/tls.crt", "internal/tls.key", "internal-ca/1.crt"):
            (tmp / "tls" / name).write_text("one")
        (tmp / "etc" / "server.properties").write_text(
            f"controller.quorum.voters=0@127.0.0.1:{files.CONTROLLER_PORT}\n"
        )
        for name, text in (("common.sh", files.COMMON), ("serve.sh", files.SERVE)):
            for old, new in (
                ("/etc/kafka-scripts", str(tmp)),
                ("/etc/kafka-tls", str(tmp / "tls")),
                ("/etc/kafka", str(tmp / "etc")),
                ("/opt/kafka/bin/kafka-server-start.sh", str(tmp / "broker")),
                (f"$host/{files.INTERNAL_PORT}", f"$host/{peer}"),
                ("sleep 15", "sleep 0.1"),
                ("ordinal * 120", "ordinal * 0"),
                ("sleep 5", "sleep 0.5"),
            ):
                text = text.replace(old, new)
            (tmp / name).write_text(text)
        (tmp / "broker").write_text(BROKER)
        (tmp / "broker").chmod(0o755)
        self.process = subprocess.Popen(
            ["/bin/bash", str(tmp / "serve.sh")],
            env={
                "PATH": os.defpath,
                "HOSTNAME": f"kafka-{ordinal}",
                "KAFKA_DOMAIN": "example",
                "KAFKA_RUN": str(tmp / "run"),
                "LOG": str(self.log),
            },
            start_new_session=True,
        )
        self.until("started")

    def until(self, *expected: str) -> float:
        began = time.monotonic()
        while not self.log.exists() or self.log.read_text().split() != list(expected):
            assert time.monotonic() - began < 20, self.log.read_text()
            time.sleep(0.05)
        return time.monotonic() - began

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener


@pytest.fixture
def broker(tmp_path: Path, peer: socket.socket, request: pytest.FixtureRequest) -> Iterator[Broker]:
    made = Broker(tmp_path, request.param, peer.getsockname()[1])
    yield made
    made.close()


@pytest.mark.parametrize("broker", [0], indirect=True)
def test_a_renewed_certificate_stops_the_broker_for_its_next_start(broker: Broker) -> None:
    broker.certificate.write_text("two")
    broker.until("started", "stopped")
    assert broker.process.wait(5) == 0


@pytest.mark.parametrize("broker", [1], indirect=True)
def test_a_higher_ordinal_looks_for_longer(broker: Broker) -> None:
    broker.certificate.write_text("two")
    assert broker.until("started", "stopped") > 2, "five looks, half a second apart"


@pytest.mark.parametrize("broker", [0], indirect=True)
def test_while_another_broker_is_away_nobody_stops(broker: Broker, peer: socket.socket) -> None:
    address = peer.getsockname()
    peer.close()
    broker.certificate.write_text("two")
    time.sleep(2)
    assert broker.log.read_text().split() == ["started"]
    with socket.create_server(address):
        broker.until("started", "stopped")


@pytest.mark.parametrize("broker", [0], indirect=True)
def test_another_authority_counts_as_renewed(broker: Broker) -> None:
    (broker.certificate.parents[1] / "internal-ca" / "2.crt").write_text("two")
    broker.until("started", "stopped")
