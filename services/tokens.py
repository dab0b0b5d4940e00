"""Short-lived tokens: JWTs that image transfer's proxy and the console verify by themselves."""

from __future__ import annotations

import time
from typing import Any

import jwt

ALGORITHM, ISSUER, AUDIENCE = "ES256", "estate", "transfer"
LIFETIME_S = 900


def issue(
    key: bytes,
    subject: str,
    *,
    device: str | None = None,
    audience: str = AUDIENCE,
    lifetime_s: float = LIFETIME_S,
    now: float | None = None,
) -> str:
    """A token for a person or program, signed with the PEM private key of `transfer-tokens`.

    `device` is written into every image that is sent with it.
    """
    more = {} if device is None else {"device": device}
    return signed(key, subject, audience, more, lifetime_s=lifetime_s, now=now)


def signed(
    key: bytes,
    subject: str,
    audience: str,
    claims: dict[str, Any],
    *,
    lifetime_s: float = LIFETIME_S,
    now: float | None = None,
) -> str:
    """A token of the estate's own issuer for `audience`, signed with a PEM private key."""
    begins = int(time.time() if now is None else now)
    whole = {
        "iss": ISSUER,
        "aud": audience,
        "sub": subject,
        "iat": begins,
        "exp": begins + int(lifetime_s),
        **claims,
    }
    return jwt.encode(whole, key, algorithm=ALGORITHM)
