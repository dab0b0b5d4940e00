"""S3 users made as declared; runs as a Job beside Ceph's own `radosgw-admin`.

Keys go by standard input: a command line can be read by every process of the machine. What is
there and not declared is named and left alone. Standard library only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

GIB = 2**30


def main(arguments: list[str]) -> int:
    """Make the users of `declaration.json` with the keys in a folder (a file per user)."""
    declaration, keys = (Path(argument) for argument in arguments)
    users = json.loads(declaration.read_text())["users"]
    present = set(json.loads(admin("metadata", "list", "user")))
    for user in users:
        name = user["name"]
        if name not in present:
            admin("user", "create", "--uid", name, "--display-name", name)
            print(f"made user {name}", flush=True)
        reconcile(user, (keys / name).read_text().strip())
    for name in sorted(present - {user["name"] for user in users}):
        print(f"user {name} is not declared; it stays", flush=True)
    return 0


def reconcile(user: dict[str, Any], secret: str) -> None:
    """One user: exactly this key, and his quota, in one write of what the store knows of him."""
    name, gib = user["name"], user["quota_gib"]
    entry = json.loads(admin("metadata", "get", f"user:{name}"))
    wanted = {
        "keys": [{"user": name, "access_key": name, "secret_key": secret}],
        "user_quota": {
            **entry["data"]["user_quota"],
            "enabled": gib is not None,
            "max_size": -1 if gib is None else gib * GIB,
            "max_size_kb": 0 if gib is None else gib * GIB // 1024,
        },
    }
    if {key: entry["data"][key] for key in wanted} != wanted:
        entry["data"].update(wanted)
        admin("metadata", "put", f"user:{name}", said=json.dumps(entry))
        print(f"set key and quota of user {name}", flush=True)


def admin(*arguments: str, said: str | None = None) -> str:
    """What radosgw-admin answers to its arguments and `said`; CalledProcessError if it fails."""
    command = ["radosgw-admin", "-n", "client.rgw", *arguments]
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"radosgw-admin {' '.join(arguments)}: {done.stderr.strip()[-400:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
