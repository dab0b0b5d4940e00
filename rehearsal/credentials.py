"""The rehearsal's secrets: one file each, made at the first `up`, mode 0600, outside Git."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rehearsal import paths

PUBLIC = ".pub"


def ensure(folder: Path, names: Iterable[str]) -> list[str]:
    """Make the secret files that are missing below a folder; returns the names of the new ones.

    Each is 32 URL-safe characters (192 bits), so that no tool needs to quote it. A name that ends
    with `.pub` is the public half (PEM) of a key that signs (ECDSA P-256, PKCS#8), which is made
    beside it under the name without that.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = []
    for name in names:
        path = folder / name
        if path.exists() and path.stat().st_size:
            continue
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if name.endswith(PUBLIC):
            value = _public_half(folder / name.removesuffix(PUBLIC))
        else:
            value = secrets.token_urlsafe(24) + "\n"
        paths.replace(path, value, mode=0o600)
        made.append(name)
    return made


def private_half(names: Iterable[str]) -> str | None:
    """Of the first public half among these names; None where there is none."""
    found = (name for name in names if name.endswith(PUBLIC))
    return next((name.removesuffix(PUBLIC) for name in found), None)


def _public_half(private: Path) -> str:
    """Of the key in a file, which is made if it is not there."""
    if not private.exists() or not private.stat().st_size:
        new = ec.generate_private_key(ec.SECP256R1())
        pem = new.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        paths.replace(private, pem.decode(), mode=0o600)
    key = serialization.load_pem_private_key(private.read_bytes(), None)
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
