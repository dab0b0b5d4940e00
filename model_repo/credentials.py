"""Who we are to a registry: from the file that `docker login` and `podman login` write.

No password is ever taken from a command line or an environment variable.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path

from model_repo.oci import OciError


def credentials(host: str, environment: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """User and password for `host[:port]`, or None. Raises OciError for a file that is damaged.

    Looked for in `$REGISTRY_AUTH_FILE`, else `$DOCKER_CONFIG/config.json` (`~/.docker`), else
    `$XDG_RUNTIME_DIR/containers/auth.json`. Credential helpers are not asked.
    """
    for file in _places(environment):
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise OciError(str(file), f"cannot be read: {error.strerror}") from None
        return _of(host, content, file)
    return None


def _places(environment: Mapping[str, str]) -> list[Path]:
    if named := environment.get("REGISTRY_AUTH_FILE"):
        return [Path(named)]
    folder = environment.get("DOCKER_CONFIG") or Path(environment.get("HOME", "/")) / ".docker"
    podman = environment.get("XDG_RUNTIME_DIR")
    more = [Path(podman) / "containers" / "auth.json"] if podman else []
    return [Path(folder) / "config.json", *more]


def _of(host: str, content: bytes, file: Path) -> tuple[str, str] | None:
    try:
        auths = json.loads(content).get("auths", {})
        found = auths.get(host) or auths.get(f"https://{host}") or {}
        if not found.get("auth"):
            return None
        decoded = base64.b64decode(found["auth"], validate=True).decode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        decoded = ""
    user, colon, password = decoded.partition(":")
    if not colon:
        # Nothing of the text: it may be the password.
        raise OciError(str(file), f"what it holds for {host} is no user and password")
    return user, password
