"""Signatures that `cosign verify --key` takes: ECDSA P-256 over cosign's "simple signing" payload.

They lie in the repository of what they sign, under cosign's own tag (`sha256-<digest>.sig`), one
layer for each. Source: cosign's SIGNATURE_SPEC.md.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model_repo.oci import (
    Descriptor,
    NoAnswer,
    NotThere,
    OciError,
    Registry,
    canonical,
    described,
    image_manifest,
    objects,
    parsed,
)

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
_KIND = "cosign container image signature"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_PAYLOAD_MOST = 64 << 10
_SIGNATURES_MOST = 100
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)


class Unsigned(OciError):
    """No signature of a trusted key says what this is."""


def private_key(pem: bytes, password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """The key in a PEM (PKCS#8 or SEC 1, as cert-manager and openssl write it). Raises OciError."""
    try:
        key = serialization.load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OciError("the signing key", f"cannot be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise OciError("the signing key", "is not of ECDSA P-256, which cosign verifies")
    return key


def public_key(pem: bytes, thing: str = "a trusted key") -> ec.EllipticCurvePublicKey:
    """The key in a PEM, as `cosign.pub` is one. Raises OciError."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise OciError(thing, f"holds no public key: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise OciError(thing, "holds no public key of ECDSA")
    return key


def trusted(files: Iterable[Path]) -> list[ec.EllipticCurvePublicKey]:
    """All public keys in these files: while one replaces another, a file has both.

    Raises OciError and OSError.
    """
    found = []
    for file in files:
        content = file.read_bytes()
        found += [public_key(pem, str(file)) for pem in _PEM.findall(content) or [content]]
    return found


def tag_of(digest: str) -> str:
    """Where the signatures of a manifest lie."""
    return f"{digest.replace(':', '-')}.sig"


def signed_by(tag: str) -> str | None:
    """The digest whose signatures lie under a tag; None for any other tag."""
    found = re.fullmatch(r"sha256-([0-9a-f]{64})\.sig", tag)
    return f"sha256:{found[1]}" if found else None


def sign(registry: Registry, repository: str, digest: str, key: ec.EllipticCurvePrivateKey) -> None:
    """Sign a manifest, unless this key has signed it before."""
    own = key.public_key()
    layers = _layers(registry, repository, digest)
    if any(_says(registry, repository, digest, layer, [own]) for layer in layers):
        return
    name = f"{registry.host}/{registry.full_name(repository)}"
    payload = canonical(
        {
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": digest},
                "type": _KIND,
            },
            "optional": None,
        }
    )
    signature = base64.b64encode(key.sign(payload, _ALGORITHM)).decode()
    layer = described(PAYLOAD, payload, {ANNOTATION: signature})
    registry.put_bytes(repository, layer, payload)
    _put(registry, repository, digest, [*layers, layer])


def _put(registry: Registry, repository: str, digest: str, layers: Sequence[Descriptor]) -> None:
    """The manifest of all signatures, whose configuration is what cosign writes: an empty image."""
    never = "0001-01-01T00:00:00Z"
    config = canonical(
        {
            "architecture": "",
            "config": {},
            "created": never,
            "history": [{"created": never}],
            "os": "",
            "rootfs": {"diff_ids": [layer.digest for layer in layers], "type": "layers"},
        }
    )
    about = described(_CONFIG, config)
    registry.put_bytes(repository, about, config)
    registry.put_manifest(repository, tag_of(digest), image_manifest(about, layers))


def verify(
    registry: Registry,
    repository: str,
    digest: str,
    keys: Sequence[ec.EllipticCurvePublicKey],
) -> None:
    """Raises Unsigned unless one of the keys has signed this manifest."""
    thing = f"{repository}@{digest}"
    if not keys:
        raise Unsigned(thing, "no trusted key was given")
    layers = _layers(registry, repository, digest)
    if not layers:
        raise Unsigned(thing, "is not signed")
    if not any(_says(registry, repository, digest, layer, keys) for layer in layers):
        raise Unsigned(thing, f"none of its {len(layers)} signatures is by a trusted key")


def _layers(registry: Registry, repository: str, digest: str) -> list[Descriptor]:
    """The signatures of a manifest, whoever made them."""
    try:
        content, _ = registry.manifest(repository, tag_of(digest))
    except NotThere:
        return []
    thing = f"{repository}:{tag_of(digest)}"
    layers = objects(parsed(content, thing).get("layers"), thing)
    found = [Descriptor.from_json(layer) for layer in layers[:_SIGNATURES_MOST]]
    return [layer for layer in found if layer.media_type == PAYLOAD and layer.size <= _PAYLOAD_MOST]


def _says(
    registry: Registry,
    repository: str,
    digest: str,
    layer: Descriptor,
    keys: Sequence[ec.EllipticCurvePublicKey],
) -> bool:
    """Whether a signature is by one of the keys, and of this manifest.

    Raises OciError when the registry does not say: that it cannot be read now is no lack of it.
    """
    try:
        payload = b"".join(registry.blob(repository, layer))
        signature = base64.b64decode(layer.annotations.get(ANNOTATION, ""), validate=True)
    except (OciError, ValueError) as error:
        away = isinstance(error, OciError) and error.status not in (None, 404)
        if away or isinstance(error, NoAnswer):
            raise
        return False  # another one may be whole
    if not any(_is_by(key, signature, payload) for key in keys):
        return False
    try:
        critical = json.loads(payload)["critical"]
        return bool(
            critical["type"] == _KIND and critical["image"]["docker-manifest-digest"] == digest
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _is_by(key: ec.EllipticCurvePublicKey, signature: bytes, payload: bytes) -> bool:
    try:
        key.verify(signature, payload, _ALGORITHM)
    except InvalidSignature:
        return False
    return True
