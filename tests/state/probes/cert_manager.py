"""Probes of the certificate authority: it issues, and everybody trusts it."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from kubernetes.client import ApiException

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
    began = time.monotonic()
    try:
        ctx.custom.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, body)
        _ready(ctx, namespace, name)
        took = time.monotonic() - began
        leaf = x509.load_pem_x509_certificate(
            ctx.secret({"namespace": namespace, "secret": name, "key": "tls.crt"})
        )
        data = ctx.core.read_namespaced_config_map(trust, namespace).data or {}
        authority = x509.load_pem_x509_certificate(data.get("ca.crt", "").encode())
        try:
            leaf.verify_directly_issued_by(authority)
        except Exception as error:
            raise AssertionError(
                f"the certificate does not verify against {trust}: {error or type(error).__name__}"
            ) from None
    except ApiException as error:
        raise AssertionError(f"certificate {namespace}/{name}: {_reason(error)}") from None
    finally:
        with suppress(ApiException):
            ctx.custom.delete_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name)
        with suppress(ApiException):
            ctx.core.delete_namespaced_secret(name, namespace)
    return f"issued and verified in {took * 1000:.0f} ms"


def _ready(ctx: ProbeContext, namespace: str, name: str) -> None:
    end = time.monotonic() + TIMEOUT_S
    message = "no condition"
    while time.monotonic() < end:
        found = cast(
            dict[str, Any],
            ctx.custom.get_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name),
        )
        for condition in found.get("status", {}).get("conditions", []):
            if condition["type"] == "Ready":
                message = condition.get("message", "")
                if condition["status"] == "True":
                    return
        time.sleep(0.2)
    raise AssertionError(f"certificate not ready after {TIMEOUT_S:.0f} s: {message}")


def _reason(error: ApiException) -> str:
    return f"{error.status} {error.reason}"


@probe("pki_trust")
def trusted(ctx: ProbeContext, *, namespaces: list[str], trust: str, ca: Mapping[str, str]) -> str:
    """The ConfigMap of every namespace holds the certificate that the authority signs with."""
    expected = _fingerprint(ctx.secret(ca))
    for namespace in namespaces:
        try:
            data = ctx.core.read_namespaced_config_map(trust, namespace).data or {}
        except ApiException as error:
            raise AssertionError(f"config map {namespace}/{trust}: {_reason(error)}") from None
        found = _fingerprint(data.get("ca.crt", "").encode())
        assert found == expected, (
            f"namespace {namespace} trusts {found or 'no certificate'}, the authority is {expected}"
        )
    return f"{len(namespaces)} namespaces trust {expected}"


def _fingerprint(pem: bytes) -> str:
    try:
        digest = x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256())
    except ValueError:
        return ""
    return base64.b16encode(digest[:6]).decode().lower()
