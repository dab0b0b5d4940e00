"""Short-lived tokens of the estate's own issuer, which a rehearsal has."""

from __future__ import annotations

from services.console.settings import Role
from services.tokens import ALGORITHM as ALGORITHM
from services.tokens import ISSUER as ISSUER
from services.tokens import LIFETIME_S, signed

AUDIENCE = "console"


def issue(
    key: bytes,
    subject: str,
    role: Role,
    *,
    lifetime_s: float = LIFETIME_S,
    now: float | None = None,
) -> str:
    """A token with one role, signed with the PEM private key of the issuer."""
    return signed(key, subject, AUDIENCE, {"roles": [role]}, lifetime_s=lifetime_s, now=now)
