"""Makes FerretDB's users what the declaration says. Runs in a Job, beside a FerretDB of its own.

FerretDB has no command that makes the first user, but one that takes his password from the command
line. It keeps users as documents of `admin.system.users`, so that is where this writes: through a
FerretDB that asks nobody for a password, and that only this pod can reach.

    mongodb_users.py <folder with a file per user, which holds his password>
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.saslprep import saslprep

ADDRESS = "mongodb://127.0.0.1:27017"
DATABASE, COLLECTION = "admin", "system.users"
MECHANISM = "SCRAM-SHA-256"
ITERATIONS = 15_000
PATIENCE_S = 120.0


def credentials(password: str, salt: bytes, iterations: int = ITERATIONS) -> dict[str, Any]:
    """What a server keeps of a password (RFC 5802), as MongoDB writes it."""
    prepared = str(saslprep(password)).encode()
    salted = hashlib.pbkdf2_hmac("sha256", prepared, salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return {
        "iterationCount": iterations,
        "salt": base64.b64encode(salt).decode(),
        "storedKey": base64.b64encode(hashlib.sha256(client_key).digest()).decode(),
        "serverKey": base64.b64encode(hmac.digest(salted, b"Server Key", "sha256")).decode(),
    }


def matches(kept: dict[str, Any], password: str) -> bool:
    """Whether a user's document was made of this password."""
    try:
        found = kept["credentials"][MECHANISM]
        salt = base64.b64decode(found["salt"])
        return bool(credentials(password, salt, found["iterationCount"]) == found)
    except (KeyError, TypeError, ValueError):
        return False


def reconcile(users: Any, passwords: dict[str, str]) -> list[str]:
    """Make the collection hold these users and no other; returns what was changed."""
    kept = {document["_id"]: document for document in users.find()}
    changed = []
    for name, password in passwords.items():
        key = f"{DATABASE}.{name}"
        if matches(kept.pop(key, {}), password):
            continue
        document = {
            "user": name,
            "db": DATABASE,
            "roles": [],
            "credentials": {MECHANISM: credentials(password, secrets.token_bytes(28))},
        }
        users.replace_one({"_id": key}, document, upsert=True)
        changed.append(name)
    for key in kept:
        users.delete_one({"_id": key})
        changed.append(f"{key} (removed)")
    return changed


def main(folder: Path) -> int:
    """Reconcile, waiting for the server to come up; 0, or 1 after PATIENCE_S."""
    files = (file for file in folder.iterdir() if not file.name.startswith("."))
    passwords = {file.name: file.read_text(encoding="utf-8") for file in sorted(files)}
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with MongoClient[dict[str, Any]](ADDRESS, serverSelectionTimeoutMS=2000) as client:
                changed = reconcile(client[DATABASE][COLLECTION], passwords)
        except PyMongoError as error:
            if time.monotonic() > deadline:
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
                return 1
            time.sleep(1)
            continue
        print(f"{len(passwords)} users; changed: {', '.join(changed) or 'none'}")
        return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
