"""Who may ask: bearer tokens of declared issuers, verified here, and a role for every route.

A route without a role cannot be made (`Guarded`), and a token is looked at before anything else of
a request is.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography import x509
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from services.console.problems import Refused
from services.console.settings import ROLES, Issuer, Role, claim

ROLE_KEY = "x-estate-role"
"""Of an operation of the OpenAPI document: the least role that may ask it."""
_LEEWAY_S = 10
_LONGEST = 16_384
_REQUIRED = ["exp", "iat", "iss", "aud", "sub"]


@dataclass(frozen=True)
class Caller:
    """Who asks: the subject of a verified token and the highest role that it gives."""

    subject: str
    issuer: str
    role: Role


class _Keys:
    """The public keys of an issuer, read again when their file changes or a key is not known."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._lock = threading.Lock()
        self._read: tuple[int, list[jwt.PyJWK]] | None = None
        self._remote: jwt.PyJWKClient | None = None
        if issuer.jwks_url is not None:
            trust = str(issuer.trust) if issuer.trust is not None else None
            self._remote = jwt.PyJWKClient(
                issuer.jwks_url,
                cache_jwk_set=True,
                lifespan=300,
                timeout=5,
                ssl_context=ssl.create_default_context(cafile=trust),
            )

    def find(self, token: str, header: Mapping[str, Any]) -> Any:
        """The key that a token says it is signed with. Raises PyJWTError, OSError, ValueError."""
        if self._remote is not None:
            return self._remote.get_signing_key_from_jwt(token).key
        keys = self._of_file()
        named = [key for key in keys if key.key_id is not None and key.key_id == header.get("kid")]
        if named:
            return named[0].key
        if len(keys) == 1:
            return keys[0].key
        raise jwt.InvalidKeyError("no key of the issuer is called so")

    def _of_file(self) -> list[jwt.PyJWK]:
        file = self._issuer.jwks_file or self._issuer.certificate
        assert file is not None
        with self._lock:
            changed = file.stat().st_mtime_ns
            if self._read is None or self._read[0] != changed:
                self._read = changed, _keys(file.read_bytes(), self._issuer)
            return self._read[1]


def _keys(content: bytes, issuer: Issuer) -> list[jwt.PyJWK]:
    if issuer.jwks_file is not None:
        return jwt.PyJWKSet.from_dict(json.loads(content)).keys
    public: Any = x509.load_pem_x509_certificate(content).public_key()
    algorithm = "RS256" if public.__class__.__name__.startswith("RSA") else "ES256"
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    return [jwt.PyJWK.from_dict(made, algorithm)]


class Authenticator:
    """Verifies bearer tokens against the declared issuers."""

    def __init__(self, issuers: Sequence[Issuer]) -> None:
        self.issuers = {issuer.issuer: (issuer, _Keys(issuer)) for issuer in issuers}

    def caller(self, token: str) -> Caller:
        """Who a token speaks for. Raises Refused: 401 for a bad one, 403 for one without a role."""
        if len(token) > _LONGEST:
            raise unauthorized("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
            unverified = jwt.decode(token, options={"verify_signature": False})
            named = unverified.get("iss")
            if not isinstance(named, str) or named not in self.issuers:
                raise unauthorized("the token is of no issuer that is known here")
            issuer, keys = self.issuers[named]
            claims: dict[str, Any] = jwt.decode(
                token,
                keys.find(token, header),
                algorithms=list(issuer.algorithms),
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=_LEEWAY_S,
                options={"require": _REQUIRED},
            )
        except jwt.PyJWKClientConnectionError:
            raise Refused(503, f"issuer {named} does not hand out its keys") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise unauthorized(f"the token is not good: {_why(error)}") from None
        except OSError:
            raise Refused(503, f"the keys of issuer {named} cannot be read") from None
        if not str(claims["sub"]).strip():
            raise unauthorized("the token is not good: its claim sub is empty")
        given = {issuer.roles.get(name) for name in claim(claims, issuer.role_claim)}
        held = [role for role in ROLES if role in given]
        if not held:
            raise Refused(403, f"the token gives none of the roles {', '.join(ROLES)}")
        return Caller(str(claims["sub"]), issuer.issuer, held[-1])


def _why(error: Exception) -> str:
    if isinstance(error, jwt.ExpiredSignatureError):
        return "it has expired"
    if isinstance(error, jwt.InvalidAudienceError):
        return "it is for another audience"
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it lacks the claim {error.claim}"
    if isinstance(error, jwt.InvalidSignatureError):
        return "its signature is not the issuer's"
    return type(error).__name__


def unauthorized(detail: str) -> Refused:
    """401, with the challenge of RFC 6750."""
    return Refused(401, detail, headers={"WWW-Authenticate": 'Bearer realm="estate"'})


class Allowance:
    """A token bucket for each subject: so many requests a minute, and a tenth of them at once."""

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._now = per_minute / 60, max(per_minute / 10, 1), now
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, subject: str) -> float:
        """0 when the subject may go on, else the seconds until he may."""
        with self._lock:
            now = self._now()
            left, at = self._left.get(subject, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._rate)
            if left >= 1:
                self._left[subject] = left - 1, now
                self._forget(now)
                return 0.0
            self._left[subject] = left, now
            return (1 - left) / self._rate

    def _forget(self, now: float) -> None:
        """Whoever has his whole allowance again need not be kept."""
        if len(self._left) > 10_000:
            full = self._burst / self._rate
            self._left = {who: one for who, one in self._left.items() if now - one[1] < full}


class Guarded(APIRoute):
    """A route that says which role may ask it, and is asked by nobody else."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The handler behind the guard."""
        inner = super().get_route_handler()
        role = (self.openapi_extra or {}).get(ROLE_KEY)
        if role not in ROLES:
            raise ValueError(f"route {self.path}: {ROLE_KEY} is {role!r}, none of {ROLES}")

        async def guarded(request: Request) -> Response:
            request.state.caller = await _admitted(request, role)
            response: Response = await inner(request)
            return response

        return guarded


async def _admitted(request: Request, role: Role) -> Caller:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise unauthorized("a bearer token is needed")
    state = request.app.state
    caller: Caller = await run_in_threadpool(state.authenticator.caller, token.strip())
    if ROLES.index(caller.role) < ROLES.index(role):
        raise Refused(403, f"role {role} is needed; the token gives {caller.role}")
    if wait := state.allowance.take(f"{caller.issuer} {caller.subject}"):
        headers = {"Retry-After": str(int(wait) + 1)}
        raise Refused(429, "too many requests; try again later", headers=headers)
    return caller


def needs(role: Role) -> dict[str, Any]:
    """`openapi_extra` of a route: the least role that may ask it."""
    return {ROLE_KEY: role}
