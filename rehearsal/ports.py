"""Which loopback ports a new rehearsal gets: a block of its own that nobody uses."""

from __future__ import annotations

import json

from rehearsal import paths
from rehearsal.control_plane import port_free
from rehearsal.errors import EstateError

FIRST_PORT = 16440
PORTS = 20
"""Loopback ports that one rehearsal may use: API, control plane, pages for a person."""


def first(wanted: int | None, up_command: str) -> int:
    """The first port of a free block, or `wanted` if its block is free. Raises EstateError."""
    base = wanted if wanted is not None else _free_base()
    for name, other in _bases().items():
        if abs(other - base) < PORTS:
            raise EstateError(
                f"--port-base {base}",
                f"rehearsal {name} has the {PORTS} ports from {other}",
                f"choose another, {_free_base()} for one, or: ./estate down --name {name}",
            )
    for port in range(base, base + PORTS):
        if not port_free(port):
            raise EstateError(
                f"port {port}",
                "in use by another program on 127.0.0.1",
                f"end that program, or choose other ports: {up_command} --port-base {base + 1000}",
            )
    return base


def _bases() -> dict[str, int]:
    """The first port of every rehearsal, by its name."""
    bases = {}
    for file in paths.state_root().glob("*/rehearsal.json"):
        try:
            bases[file.parent.name] = int(json.loads(file.read_text())["port_base"])
        except (OSError, ValueError, KeyError):
            continue
    return bases


def _free_base() -> int:
    taken = set(_bases().values())
    for base in range(FIRST_PORT, FIRST_PORT + 100 * PORTS, PORTS):
        if base not in taken and all(port_free(port) for port in range(base, base + PORTS)):
            return base
    raise EstateError(
        "ports", f"none free from {FIRST_PORT}", "choose some: ./estate up --port-base N"
    )
