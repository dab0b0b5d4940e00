"""What tests with real servers on the loopback share."""

from __future__ import annotations

import shutil
import socket

from rehearsal import paths


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def haproxy() -> str | None:
    """HAProxy as `up` has unpacked it, else the machine's own; None where there is neither."""
    unpacked = paths.cache() / "debian" / "usr" / "sbin" / "haproxy"
    return str(unpacked) if unpacked.exists() else shutil.which("haproxy")
