"""What a program serves by TLS, for probes, Prometheus and the controller."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.serving import server as module
from services.serving import world
from services.serving.cluster import Pod
from services.serving.settings import ServerSettings
from tests.unit.rehearsal.authority import authority
from tests.unit.services.serving.site import Site
from tests.unit.services.serving.test_world import settings

NAME = "triton.serving.svc.cluster.local"


@dataclass
class Served:
    port: int
    folder: Path
    ready: bool = True
    asked: list[str] = field(default_factory=list)

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca.crt"))

    def connection(self) -> http.client.HTTPSConnection:
        made = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5)
        plain = socket.create_connection(("127.0.0.1", self.port), 5)
        made.sock = self.context().wrap_socket(plain, server_hostname=NAME)
        return made

    def serial(self) -> str:
        plain = socket.create_connection(("127.0.0.1", self.port), 5)
        with self.context().wrap_socket(plain, server_hostname=NAME) as tls:
            return str((tls.getpeercert() or {})["serialNumber"])


def issue(folder: Path) -> None:
    authority(folder, host=NAME)
    shutil.copy(folder / "ca.crt", folder / "tls.crt")
    shutil.copy(folder / "ca.key", folder / "tls.key")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    issue(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    monkeypatch.setattr(module, "_RELOAD_S", 0.05)
    made = Served(port, tmp_path)

    def status() -> tuple[int, str]:
        made.asked.append("/status")
        return 200, '{"triton": true, "models": {}}'

    module.serve(
        ServerSettings(port=port, certificate=tmp_path / "tls.crt", key=tmp_path / "tls.key"),
        {
            "/status": status,
            "/readyz": lambda: (200, "ready\n") if made.ready else (503, "not ready\n"),
        },
    )
    yield made


def get(connection: http.client.HTTPSConnection, path: str) -> tuple[int, str]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_many_answers_on_one_connection(served: Served) -> None:
    connection = served.connection()
    first = connection.sock
    assert get(connection, "/status") == (200, '{"triton": true, "models": {}}')
    assert get(connection, "/readyz") == (200, "ready\n")
    served.ready = False
    assert get(connection, "/readyz") == (503, "not ready\n")
    assert get(connection, "/elsewhere") == (404, "not found\n")
    status, text = get(connection, "/metrics")
    assert status == 200 and "# TYPE serving_loads_total counter" in text
    assert connection.sock is first, "it was kept"
    began = time.monotonic()
    for _ in range(20):
        get(connection, "/readyz")
    assert time.monotonic() - began < 0.6, "nothing waits for a delayed acknowledgement"
    connection.close()


def test_nothing_but_get(served: Served) -> None:
    connection = served.connection()
    connection.request("POST", "/status", body="{}")
    assert connection.getresponse().status == 501
    assert not served.asked


def test_plain_http_and_a_handshake_that_never_ends_keep_nobody(served: Served) -> None:
    with (
        socket.create_connection(("127.0.0.1", served.port), 5) as plain,
        socket.create_connection(("127.0.0.1", served.port), 5) as silent,
    ):
        plain.sendall(b"GET /status HTTP/1.1\r\n\r\n")
        assert get(served.connection(), "/readyz") == (200, "ready\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(1000)
        silent.close()
    assert get(served.connection(), "/readyz") == (200, "ready\n")


def test_a_certificate_that_is_renewed_is_read_again(served: Served) -> None:
    before = served.serial()
    (served.folder / "tls.crt").write_text("half")
    time.sleep(0.2)
    assert served.serial() == before, "the former goes on"
    issue(served.folder)
    deadline = time.monotonic() + 5
    while True:
        try:
            if served.serial() != before:
                break
        except ssl.SSLError:  # by the authority before
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_controller_reads_it(served: Served, site: Site) -> None:
    site.triton.metrics = "nv_cpu_utilization 1\n"
    known = settings(site).model_copy(
        update={"sync_port": served.port, "sync_name": NAME, "ca": served.folder / "ca.crt"}
    )
    pod = Pod("a", "127.0.0.1", True, "cpu", "stable")
    (seat,) = world.look(known, [pod])
    assert seat.status is not None and seat.status.triton and seat.metrics
    # One that calls itself otherwise is not believed.
    other = known.model_copy(update={"sync_name": "inference.serving.svc.cluster.local"})
    (seat,) = world.look(other, [pod])
    assert seat.status is None and seat.metrics
