"""Issuers: JWK sets by file and by address, mapped roles, keys that are replaced."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import ValidationError

from services.console.problems import Refused
from services.console.security import Allowance, Authenticator
from services.console.settings import Issuer, claim
from tests.unit.services.console.conftest import key_pair

KEYCLOAK = "https://id.example/realms/estate"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def key_set(key: rsa.RSAPrivateKey, kid: str = "one") -> str:
    made = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    other = json.loads(
        jwt.algorithms.RSAAlgorithm.to_jwk(
            rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
        )
    )
    keys = [{**other, "kid": "other", "alg": "RS256"}, {**made, "kid": kid, "alg": "RS256"}]
    return json.dumps({"keys": keys})


def token(key: Any, kid: str | None = "one", **other: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": KEYCLOAK,
        "aud": ["account", "console"],
        "sub": "u",
        "iat": now,
        "exp": now + 60,
        "realm_access": {"roles": ["offline_access", "lake-operator"]},
    }
    headers = {"kid": kid} if kid else {}
    return jwt.encode({**claims, **other}, key, algorithm="RS256", headers=headers)


def issuer(**source: Any) -> Issuer:
    return Issuer(
        issuer=KEYCLOAK,
        audience="console",
        role_claim="realm_access.roles",
        roles={"lake-viewer": "viewer", "lake-operator": "operator"},
        **source,
    )


def test_roles_are_those_of_the_mapping(key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(key_set(key))
    known = Authenticator([issuer(jwks_file=file)])
    assert known.caller(token(key)).role == "operator"
    refused_access: tuple[Any, ...] = ({"roles": ["admin"]}, {"roles": "admin"}, [], "admin", None)
    for access in refused_access:
        with pytest.raises(Refused) as refused:
            known.caller(token(key, realm_access=access))
        assert refused.value.status == 403
    for subject in ("", " "):
        with pytest.raises(Refused, match="sub is empty") as refused:
            known.caller(token(key, sub=subject))
        assert refused.value.status == 401
    for kid in ("other", "unknown", None):
        with pytest.raises(Refused) as refused:
            known.caller(token(key, kid))
        assert refused.value.status == 401
    # Its keys are replaced: no restart.
    renewed = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    time.sleep(0.01)
    file.write_text(key_set(renewed))
    assert known.caller(token(renewed)).subject == "u"
    with pytest.raises(Refused):
        known.caller(token(key))


@pytest.fixture
def server(key: rsa.RSAPrivateKey, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    pair = key_pair(tmp_path, "localhost")
    private = tmp_path / "tls.key"
    private.write_bytes(pair.key)
    content = key_set(key).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None: ...

    served = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, private)
    served.socket = context.wrap_socket(served.socket, server_side=True)
    threading.Thread(target=served.serve_forever, args=(0.05,), daemon=True).start()
    yield f"https://localhost:{served.server_address[1]}/certs", pair.certificate
    served.shutdown()
    served.server_close()


def test_keys_by_an_address(key: rsa.RSAPrivateKey, server: tuple[str, Path]) -> None:
    url, trust = server
    known = Authenticator([issuer(jwks_url=url, trust=trust)])
    assert known.caller(token(key)).role == "operator"
    with pytest.raises(Refused) as refused:
        known.caller(token(key, "unknown"))
    assert refused.value.status == 401
    # A server that nobody vouches for hands out no keys.
    with pytest.raises(Refused) as refused:
        Authenticator([issuer(jwks_url=url)]).caller(token(key))
    assert refused.value.status == 503


@pytest.mark.parametrize(
    "source",
    [{}, {"jwks_url": "http://plain"}, {"jwks_url": "https://a", "jwks_file": "b"}],
)
def test_an_issuer_has_one_source_and_that_is_protected(source: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        issuer(**source)


def test_a_claim_is_found_whatever_is_there() -> None:
    assert claim({"a": {"b": ["x", 1]}}, "a.b") == ["x"]
    assert claim({"a": "x"}, "a") == ["x"]
    for claims in ({}, {"a": None}, {"a": [1]}, {"a": {"c": 1}}):
        assert claim(claims, "a.b") == []


def test_an_allowance_fills_again() -> None:
    now = 0.0
    allowance = Allowance(60, lambda: now)
    assert [allowance.take("a") for _ in range(6)] == [0] * 6
    assert 0 < allowance.take("a") <= 1
    assert allowance.take("b") == 0
    now = 1.1
    assert allowance.take("a") == 0 and allowance.take("a") > 0
