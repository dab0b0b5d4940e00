"""The one way in: sockets on loopback, handed to an HAProxy with these routes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal import sandbox
from rehearsal.errors import EstateError
from rehearsal.gateway import Gateway, Route, listen
from rehearsal.sandbox import Direct
from tests.loopback import free_port, haproxy


def test_it_listens_on_loopback_alone() -> None:
    with listen(free_port(), "page") as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        with socket.create_connection(listener.getsockname(), 1):
            pass


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EstateError) as caught:
            listen(port, "grafana")
    line = str(caught.value)
    assert line.startswith(f"port {port} (grafana): in use by another program on 127.0.0.1; ")
    assert "./estate up --port-base" in line


HAPROXY = haproxy()
needs_haproxy = pytest.mark.skipif(
    HAPROXY is None, reason="needs haproxy: ./estate up unpacks it into the cache"
)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    # On the host's loopback: what is tested is the hand-over, not the namespaces.
    made = Gateway(Direct("test", tmp_path), HAPROXY or "haproxy", "gateway")  # type: ignore[arg-type]
    yield made
    made.daemon.stop(grace=1)


@pytest.fixture
def target() -> Iterator[int]:
    """A server that says hello once per connection."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"hello")

    threading.Thread(target=serve, daemon=True).start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()


@needs_haproxy
def test_routes_lead_to_their_targets_by_inherited_sockets(
    gateway: Gateway, target: int, tmp_path: Path
) -> None:
    routes = [
        Route("api", free_port(), f"127.0.0.1:{target}"),
        Route("pages", free_port(), "prometheus.monitoring.svc.cluster.local:9090"),
    ]
    gateway.start(routes)
    running = gateway.daemon.process()
    assert running is not None
    with socket.create_connection(("127.0.0.1", routes[0].port), 3) as client:
        assert client.recv(16) == b"hello"
    gateway.start(routes)  # a second start finds it
    again = gateway.daemon.process()
    assert again is not None and again.pid == running.pid

    lines = [line.strip() for line in (tmp_path / "gateway.cfg").read_text().splitlines()]
    assert f"nameserver dns {sandbox.DNS_SERVICE_IP}:53" in lines
    binds = [line for line in lines if line.startswith("bind")]
    assert len(binds) == 2 and all(line.startswith("bind fd@") for line in binds)
    for route in routes:
        at = lines.index(f"listen {route.name}")
        assert lines[at + 2] == f"server inside {route.target} resolvers cluster"


@needs_haproxy
def test_a_port_in_use_starts_nothing(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        routes = [
            Route("api", free_port(), "127.0.0.1:1"),
            Route("pages", other.getsockname()[1], "127.0.0.1:1"),
        ]
        with pytest.raises(EstateError, match=r"port \d+ \(pages\): in use"):
            gateway.start(routes)
    assert gateway.daemon.process() is None and not gateway.daemon.known


@needs_haproxy
def test_a_gateway_that_can_not_start_says_why(gateway: Gateway) -> None:
    with pytest.raises(EstateError, match=r"^gateway: .*unknown keyword 'of'.*gateway\.cfg"):
        gateway.start([Route("api", free_port(), "nonsense of a target:x y")])
    assert not gateway.daemon.known
