"""Probes of the certificate authority: it issues, and everybody trusts it."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from rehearsal.kube import ApiError
from tests.state.probes import ProbeContext, probe

GROUP, VERSION, PLURAL = "cert-manager.io", "v1", "certificates"
TIMEOUT_S = 20.0


@probe("cert_manager_issue")
def issue(ctx: ProbeContext, *, namespace: str, issuer: str, trust: str) -> str:
    """Ask for a certificate, see it Ready, verify it with the CA that the namespace trusts."""
    name = f"estate-verify-{uuid.uuid4().hex[:8]}"
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Certificate",
        "metadata": {"name": name},
        "spec": {
            "secretName": name,
            "dnsNames": [f"{name}.{namespace}.svc"],
            "duration": "1h0m0s",
            "privateKey": {"algorithm": "ECDSA", "size": 256},
            "issuerRef": {"name": issuer, "kind": "ClusterIssuer", "group": GROUP},
        },
    }
    certificates = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
    began = time.monotonic()
    try:
        ctx.api.request("POST", certificates, body)
        _ready(ctx, f"{certificates}/{name}")
        took = time.monotonic() - began
        leaf = x509.load_pem_x509_certificate(
            ctx.secret({"namespace": namespace, "secret": name, "key": "tls.crt"})
        )
        data = ctx.config_map(namespace, trust)
        reasons = [_refusal(leaf, authority) for authority in _bundle(data.get("ca.crt", ""))]
        assert not all(reasons), f"the certificate does not verify against {trust}: {reasons}"
    except ApiError as error:
        raise AssertionError(f"certificate {namespace}/{name}: {error}") from None
    finally:
        with suppress(ApiError):
            ctx.api.request("DELETE", f"{certificates}/{name}")
        with suppress(ApiError):
            ctx.api.request("DELETE", f"/api/v1/namespaces/{namespace}/secrets/{name}")
    return f"issued and verified in {took * 1000:.0f} ms"


def _ready(ctx: ProbeContext, certificate: str) -> None:
    end = time.monotonic() + TIMEOUT_S
    message = "no condition"
    while time.monotonic() < end:
        found = ctx.api.request("GET", certificate)
        for condition in found.get("status", {}).get("conditions", []):
            if condition["type"] == "Ready":
                message = condition.get("message", "")
                if condition["status"] == "True":
                    return
        time.sleep(0.2)
    raise AssertionError(f"certificate not ready after {TIMEOUT_S:.0f} s: {message}")


@probe("pki_trust")
def trusted(
    ctx: ProbeContext, *, namespaces: list[str], trust: str, ca: list[Mapping[str, str]]
) -> str:
    """The ConfigMap of every namespace holds the certificates of all generations, and no other."""
    expected = _fingerprints([one for ref in ca for one in _bundle(ctx.secret(ref).decode())])
    for namespace in namespaces:
        data = ctx.config_map(namespace, trust)
        found = _fingerprints(_bundle(data.get("ca.crt", "")))
        assert found == expected, (
            f"namespace {namespace} trusts {found or 'no certificate'}, the authority is {expected}"
        )
    return f"{len(namespaces)} namespaces trust {expected}"


def _refusal(leaf: x509.Certificate, authority: x509.Certificate) -> str:
    """Why a certificate was not issued by an authority; empty when it was."""
    try:
        leaf.verify_directly_issued_by(authority)
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def _bundle(pem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return []


def _fingerprints(certificates: list[x509.Certificate]) -> str:
    digests = (one.fingerprint(hashes.SHA256()) for one in certificates)
    return " ".join(sorted(base64.b16encode(digest[:6]).decode().lower() for digest in digests))
