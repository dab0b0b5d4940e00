"""Makes Nexus' repository, roles and users what is declared, by its REST API; run as a Job.

    python3 nexus_setup.py <settings.json> <ca.crt> <passwords folder>

The settings are nexus_files.settings(); the folder has a file for `admin` and for each user with
his password. Nothing is deleted. Running it again changes nothing. Exit 1: what it must not decide.
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADMIN = "admin"
PATIENCE_S = 400.0
TIMEOUT_S = 30.0
_POLICIES = ("/v1/cleanup-policies", "/internal/cleanup-policies")
"""Where policies are: the documented place is there with a Pro licence, the other one always."""


class Refused(Exception):
    """What Nexus said, or what a person has to decide; nothing of it is secret."""


@dataclass(frozen=True)
class Api:
    """Nexus' REST API as one user."""

    url: str
    tls: ssl.SSLContext | None
    login: tuple[str, str]
    """User and password."""

    def ask(
        self, method: str, path: str, body: Any = None, *, text: bool = False
    ) -> tuple[int, Any]:
        """Status and JSON of an answer. `text`: the body is plain text. Raises OSError."""
        basic = base64.b64encode(":".join(self.login).encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Accept": "application/json"}
        data = None
        if body is not None:
            data = (body if text else json.dumps(body)).encode()
            headers["Content-Type"] = "text/plain" if text else "application/json"
        request = urllib.request.Request(
            f"{self.url}/service/rest{path}", data=data, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self.tls) as answer:
                return answer.status, _json(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _json(error.read())

    def get(self, path: str) -> Any:
        """What is there, or None."""
        status, found = self.ask("GET", path)
        if status == 404:
            return None
        if status != 200:
            raise Refused(f"GET {path}: {status} {_words(found)}")
        return found

    def send(self, method: str, path: str, body: Any, *, text: bool = False) -> None:
        """Change something. Raises Refused when it was not."""
        status, found = self.ask(method, path, body, text=text)
        if not 200 <= status < 300:
            raise Refused(f"{method} {path}: {status} {_words(found)}")


def main(arguments: list[str]) -> int:
    """Make it true once; prints what it changed."""
    settings = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    tls = ssl.create_default_context(cafile=arguments[1])
    folder = Path(arguments[2])
    passwords = {
        user: (folder / user).read_text(encoding="utf-8").rstrip("\n")
        for user in (ADMIN, *settings["users"])
    }
    try:
        for line in make(settings, passwords, tls):
            print(line, flush=True)
    except Refused as error:
        print(f"nexus: {error}", file=sys.stderr)
        return 1
    return 0


def make(
    settings: dict[str, Any],
    passwords: dict[str, str],
    tls: ssl.SSLContext | None = None,
    patience_s: float = PATIENCE_S,
) -> list[str]:
    """What was changed, one line for each thing. Raises Refused."""
    admin = Api(settings["url"], tls, (ADMIN, passwords[ADMIN]))
    _wait(admin, patience_s)
    changed = _eula(admin, accept=settings["accept_eula"]) + _anonymous(admin)
    if settings["cleanup"] is not None:
        changed += _policy(admin, settings["cleanup"])
    changed += _put(
        admin, "/v1/repositories/docker/hosted", settings["repository"]["name"],
        settings["repository"], "repository",
    )  # fmt: skip
    for user, wanted in settings["users"].items():
        role = wanted["role"]
        changed += _put(admin, "/v1/security/roles", role["id"], role, "role")
        changed += _user(admin, user, wanted, passwords[user])
    return changed


def _wait(admin: Api, patience_s: float) -> None:
    """Until Nexus answers, and takes the administrator."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            status, found = admin.ask("GET", "/v1/security/realms/active")
        except OSError as error:
            status, found = 0, {"message": str(error)}
        if status == 200:
            return
        if status in (401, 403):
            raise Refused(
                f"takes {ADMIN} by another password than the declared one: his first password "
                "counts until somebody changes it there; declare the one that he has now"
            )
        if time.monotonic() > deadline:
            raise Refused(f"does not answer: {status} {_words(found)}")
        time.sleep(min(2.0, patience_s / 4))


def _eula(admin: Api, *, accept: bool) -> list[str]:
    found = admin.get("/v1/system/eula")
    if found is None or found.get("accepted"):
        return []  # with a Pro licence there is none
    if not accept:
        raise Refused(
            "its Community Edition serves nothing until its licence is accepted: read it "
            "(https://links.sonatype.com/products/nxrm/ce-eula), and set "
            "model_repository.nexus.accept_eula: true"
        )
    admin.send("POST", "/v1/system/eula", {**found, "accepted": True})
    return ["licence: accepted"]


def _anonymous(admin: Api) -> list[str]:
    found = admin.get("/v1/security/anonymous") or {}
    if not found.get("enabled"):
        return []
    admin.send("PUT", "/v1/security/anonymous", {**found, "enabled": False})
    return ["anonymous: shut out"]


def _policy(admin: Api, wanted: dict[str, Any]) -> list[str]:
    for path in _POLICIES:
        if admin.get(path) is not None:
            return _put(admin, path, wanted["name"], wanted, "cleanup policy")
    raise Refused("has no API for cleanup policies; set model_repository.nexus.keep_days to 0")


def _put(admin: Api, path: str, name: str, wanted: dict[str, Any], what: str) -> list[str]:
    """Create it, or make it what is wanted; what Nexus adds of its own stays."""
    found = admin.get(f"{path}/{name}")
    if found is None:
        admin.send("POST", path, wanted)
        return [f"{what} {name}: created"]
    if _holds(found, wanted):
        return []
    admin.send("PUT", f"{path}/{name}", wanted)
    return [f"{what} {name}: changed"]


def _user(admin: Api, user: str, wanted: dict[str, Any], password: str) -> list[str]:
    account = {
        "userId": user,
        "firstName": wanted["first"],
        "lastName": wanted["last"],
        "emailAddress": f"{user}@estate.invalid",
        "status": "active",
        "roles": [wanted["role"]["id"]],
    }
    # The question is a search: `publisher` finds `publisher-2` too.
    found = [
        one
        for one in admin.get(f"/v1/security/users?userId={user}&source=default") or []
        if one["userId"] == user
    ]
    if not found:
        admin.send("POST", "/v1/security/users", {**account, "password": password})
        return [f"user {user}: created"]
    changed = []
    if not _holds(found[0], account):
        body = {**account, "source": "default"}
        admin.send("PUT", f"/v1/security/users/{user}", body)
        changed.append(f"user {user}: changed")
    status, _ = Api(admin.url, admin.tls, (user, password)).ask("GET", "/v1/repositories")
    if status == 401:
        path = f"/v1/security/users/{user}/change-password"
        admin.send("PUT", path, password, text=True)
        changed.append(f"user {user}: another password")
    return changed


def _holds(found: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there; lists are sets of names."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            _holds(found.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and sorted(found) == sorted(wanted)
    return bool(found == wanted)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content) if content else {}
    except ValueError:
        return {"message": content[:200].decode(errors="replace")}


def _words(found: Any) -> str:
    """What an error says: Nexus sends a list of messages, or an object with one."""
    first = found[0] if isinstance(found, list) and found else found
    text = first.get("message", "") if isinstance(first, dict) else str(first)
    return " ".join(str(text).split())[:300]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
