"""Every route of the OpenAPI document, asked by everybody who may not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

from services.console import tokens
from services.console.security import ROLE_KEY, Guarded
from services.console.settings import ROLES, Role
from tests.unit.services.console.conftest import KeyPair, key_pair

PUBLIC = {"/api/openapi.json", "/api/docs", "/api/docs/{name}"}
VALUES = {"digest": "a" * 64, "topic": "t", "group": "g", "collection": "c", "bucket": "images"}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, Role]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation[ROLE_KEY]


def ask(client: TestClient, method: str, path: str, headers: dict[str, str]) -> Any:
    filled = path
    for name, value in {**VALUES, "dataset": "d"}.items():
        filled = filled.replace(f"{{{name}}}", value)
    assert "{" not in filled, path
    return client.request(method, filled, headers=headers, json={} if method == "POST" else None)


def test_every_route_refuses_whoever_may_not_ask_it(
    client: TestClient,
    estate_key: KeyPair,
    bearer: Callable[[Role], dict[str, str]],
    tmp_path: Path,
) -> None:
    foreign = key_pair(tmp_path, "foreign")
    good = {
        "iss": tokens.ISSUER,
        "aud": tokens.AUDIENCE,
        "sub": "who",
        "iat": int(time.time()),
        "exp": int(time.time()) + 60,
        "roles": ["admin"],
    }

    def signed(key: bytes | str = estate_key.key, algorithm: str = "ES256", **other: Any) -> str:
        claims = {name: value for name, value in {**good, **other}.items() if value is not None}
        return f"Bearer {jwt.encode(claims, key, algorithm=algorithm)}"

    strangers = {
        "nobody": None,
        "a password": "Basic d2hvOndoeQ==",
        "nonsense": "Bearer nonsense",
        "expired": signed(exp=int(time.time()) - 60),
        "another's signature": signed(foreign.key),
        "no signature": signed("", "none"),
        # What an attacker has is the certificate: it must not do as the secret of an HMAC.
        "a shared secret": signed("x" * 32, "HS256"),
        "another issuer": signed(iss="https://elsewhere"),
        "another audience": signed(aud="transfer"),
        "no end": signed(exp=None),
        "no subject": signed(sub=None),
    }
    document = client.get("/api/openapi.json").json()
    asked = 0
    for method, path, role in operations(document):
        for who, header in strangers.items():
            answer = ask(client, method, path, {} if header is None else {"Authorization": header})
            assert answer.status_code == 401, (method, path, who, answer.text)
            assert answer.headers["content-type"] == "application/problem+json", (path, who)
            assert answer.headers["www-authenticate"].startswith("Bearer"), (path, who)
            asked += 1
        roleless = ask(client, method, path, {"Authorization": signed(roles=["root"])})
        assert roleless.status_code == 403, (method, path)
        for other in ROLES:
            status = ask(client, method, path, bearer(other)).status_code
            refused = ROLES.index(other) < ROLES.index(role)
            assert (status == 403) == refused, (method, path, other, status)
            assert status != 401, (method, path, other)
            asked += 1
    assert asked > 250


def test_the_document_has_every_route(client: TestClient) -> None:
    app: Any = client.app
    document = client.get("/api/openapi.json").json()
    assert {role for _, _, role in operations(document)} == set(ROLES)
    guarded = [
        (method, route.path)
        for route in _routes(app)
        if isinstance(route, Guarded)
        for method in route.methods or ()
    ]
    assert sorted(guarded) == sorted((method, path) for method, path, _ in operations(document))
    assert {route.path for route in _routes(app) if not isinstance(route, Guarded)} <= PUBLIC, (
        "a route without a role"
    )


def _routes(app: Any) -> Iterator[Any]:
    for route in app.routes:
        if hasattr(route, "path") and hasattr(route, "methods"):
            yield route
        else:
            inner = getattr(route, "original_router", None)
            yield from inner.routes if inner is not None else []


def test_a_route_without_a_role_cannot_be_made() -> None:
    router = APIRouter(route_class=Guarded)
    with pytest.raises(ValueError, match="none of"):
        router.get("/open")(lambda: None)


def test_what_is_not_there_is_a_problem_too(
    client: TestClient, bearer: Callable[[Role], dict[str, str]]
) -> None:
    for method, path, status in (
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/", 404),
        ("DELETE", "/api/v1/topics", 405),
        ("GET", "/api/v1/images/not-a-digest", 422),
        ("GET", "/api/v1/images?limit=100000", 422),
        ("GET", "/api/v1/images?colour=red", 422),
    ):
        answer = client.request(method, path, headers=bearer("admin"))
        assert answer.status_code == status, (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", path
        assert answer.json()["status"] == status
        assert answer.headers["x-content-type-options"] == "nosniff"
