"""Short-lived tokens for image transfer: JWTs that its proxy verifies by itself."""

from __future__ import annotations

import time

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
    begins = int(time.time() if now is None else now)
    claims = {
        "iss": ISSUER,
        "aud": audience,
        "sub": subject,
        "iat": begins,
        "exp": begins + int(lifetime_s),
        **({} if device is None else {"device": device}),
    }
    return jwt.encode(claims, key, algorithm=ALGORITHM)
