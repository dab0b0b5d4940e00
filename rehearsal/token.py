"""`./estate token`: a short-lived token of a rehearsal's own issuer."""

from __future__ import annotations

from components.console.config import TOKEN_SECRET
from rehearsal.access import lake_secret
from rehearsal.errors import UsageError
from rehearsal.rehearsal import Rehearsal
from services.console import tokens
from services.console.settings import ROLES


def run(*, name: str, role: str, subject: str) -> int:
    """Print a token for the console."""
    if role not in ROLES:
        raise UsageError("--role", repr(role), f"use one of {', '.join(ROLES)}")
    if not subject.strip():
        raise UsageError("--subject", repr(subject), "name whom the token speaks for")
    rehearsal = Rehearsal(name)
    rehearsal.required()
    key = lake_secret(rehearsal, TOKEN_SECRET, "tls.key").encode()
    print(tokens.issue(key, subject, role))
    return 0
