"""The one way in: HAProxy, listening on the host's loopback, connecting inside the sandbox.

A socket belongs to the network namespace that it was made in, whoever uses it. So the listening
sockets are made here, on 127.0.0.1, and handed by descriptor to an HAProxy that runs inside.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from rehearsal.control_plane import MOVE
from rehearsal.errors import EstateError
from rehearsal.processes import Daemon, wait_for
from rehearsal.sandbox import DNS_SERVICE_IP, Sandbox


@dataclass(frozen=True)
class Route:
    """One loopback port and the address inside that it leads to (host:port)."""

    name: str
    port: int
    target: str


class Gateway:
    """The gateway of one rehearsal."""

    def __init__(self, box: Sandbox, haproxy: str, name: str) -> None:
        self.box = box
        self._haproxy = haproxy
        self.daemon = Daemon(box.folder, name)

    def start(self, routes: list[Route]) -> None:
        """Start it unless it runs; raises EstateError that names a port in use."""
        if self.daemon.process() is not None:
            return
        lines = [
            "global",
            "  maxconn 2000",
            "defaults",
            "  mode tcp",
            "  timeout connect 5s",
            "  timeout client 1h",
            "  timeout server 1h",
            "  default-server init-addr none",
            "resolvers cluster",
            f"  nameserver dns {DNS_SERVICE_IP}:53",
            "  hold valid 2s",
        ]
        with ExitStack() as stack:
            descriptors = []
            for route in routes:
                listener = stack.enter_context(listen(route.port, route.name))
                descriptors.append(listener.fileno())
                lines += [
                    f"listen {route.name}",
                    f"  bind fd@{listener.fileno()}",
                    f"  server inside {route.target} resolvers cluster",
                ]
            configuration = self.box.folder / f"{self.daemon.name}.cfg"
            configuration.write_text("\n".join(lines) + "\n")
            command = [*self.box.prefix(), self._haproxy]
            self._check([*command, "-c", "-f", str(configuration)], descriptors)
            self.daemon.start(
                [*command, "-db", "-f", str(configuration)],
                pass_fds=descriptors,
                env=_environment(),
            )
        first = routes[0].port
        if not wait_for(lambda: self.daemon.process() is None or _answers(first), 10, 0.05):
            raise EstateError("gateway", self.daemon.last_words(), f"see {self.daemon.log}")
        if self.daemon.process() is None:
            raise EstateError("gateway", self.daemon.last_words(), f"see {self.daemon.log}")

    def _check(self, command: list[str], descriptors: list[int]) -> None:
        """Let HAProxy read its configuration: once it is started, its sockets answer by themselves.

        They listen from the moment they were made, so an answer does not show that it serves.
        """
        done = subprocess.run(
            command,
            pass_fds=descriptors,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            alerts = [line for line in said if "ALERT" in line] or said
            raise EstateError(
                "gateway", alerts[0][:300], f"see {self.box.folder / self.daemon.name}.cfg"
            )


def _environment() -> Mapping[str, str]:
    return {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}


def listen(port: int, name: str) -> socket.socket:
    """A listening socket on 127.0.0.1; EstateError names the port when it is in use."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        raise EstateError(
            f"port {port} ({name})",
            "in use by another program on 127.0.0.1",
            MOVE,
        ) from None
    listener.listen(512)
    return listener


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
