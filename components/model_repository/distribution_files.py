"""What the CNCF's registry (distribution) is started with: one process for each door."""

from __future__ import annotations

import json
from typing import Any

from components.model_repository.config import PUBLISHER, READER

ROOT = "/model-registry"
CONFIG, SCRIPTS, USERS = f"{ROOT}/config", f"{ROOT}/scripts", f"{ROOT}/users"
AUTH, DATA = "/run/auth", "/var/lib/registry"
PUBLISH, READ = "publish", "read"
BEHIND = {PUBLISH: 5080, READ: 5081}
METRICS = {PUBLISH: 5090, READ: 5091}
"""On the pod's loopback."""
_USER = {PUBLISH: PUBLISHER, READ: READER}


def registry_config(door: str, *, guarded: bool = True, read_only: bool | None = None) -> str:
    """`registry serve`'s configuration for a door (JSON is YAML).

    Not `guarded` asks nobody for a password; `read_only` is what the door is for, unless it is
    given: the faults of the checks.
    """
    fixed = door == READ if read_only is None else read_only
    storage: dict[str, Any] = {
        "filesystem": {"rootdirectory": DATA},
        # Without a cache: each process would go on to believe in what the other has deleted.
        "delete": {"enabled": not fixed},
        "maintenance": {
            "readonly": {"enabled": fixed},
            # Of uploads that were broken off; the other process has no business with them.
            "uploadpurging": {
                "enabled": door == PUBLISH,
                "age": "24h",
                "interval": "1h",
                "dryrun": False,
            },
        },
    }
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {
            "level": "warn",
            "formatter": "json",
            # It has no users' names, and a line for every probe.
            "accesslog": {"disabled": True},
        },
        "storage": storage,
        "http": {
            "addr": f"127.0.0.1:{BEHIND[door]}",
            # It does not know the address that the proxy has.
            "relativeurls": True,
            "draintimeout": "15s",
            "debug": {
                "addr": f"127.0.0.1:{METRICS[door]}",
                "prometheus": {"enabled": True, "path": "/metrics"},
            },
        },
    }
    if guarded:
        path = f"{AUTH}/{_USER[door]}"
        config["auth"] = {"htpasswd": {"realm": "estate models", "path": path}}
    return json.dumps(config, indent=1)


HASH_PASSWORDS = f"""\
#!/bin/sh
# A file of one user for each door: passwords come from files, never from an argument list.
set -eu
umask 077
for file in {USERS}/*; do
  user="${{file##*/}}"
  # A fast hash: what it is made of lies in this pod too, and every request is judged by it.
  htpasswd -niB -C 5 "$user" < "$file" > {AUTH}/"$user"
done
"""
