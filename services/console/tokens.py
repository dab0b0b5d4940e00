"""Short-lived tokens of the estate's own issuer, which a rehearsal has."""

from __future__ import annotations

import time

import jwt

from services.console.settings import Role

ALGORITHM, ISSUER, AUDIENCE = "ES256", "estate", "console"
LIFETIME_S = 900


def issue(
    key: bytes,
    subject: str,
    role: Role,
    *,
    lifetime_s: float = LIFETIME_S,
    now: float | None = None,
) -> str:
    """A token with one role, signed with the PEM private key of the issuer."""
    begins = int(time.time() if now is None else now)
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": begins,
        "exp": begins + int(lifetime_s),
        "roles": [role],
    }
    return jwt.encode(claims, key, algorithm=ALGORITHM)
