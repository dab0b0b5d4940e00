"""The estate's own certificate authority, and its certificate in every namespace."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource
from pydantic import Field

from components.checks import Check, Fault, ObjectRef, scale_to
from components.model import Model, immutable
from components.platform.cert_manager import NAMESPACE
from components.workload import ISSUER, TRUST_CONFIG_MAP, Component, labels, meta


class PkiConfig(Model):
    """The authority's name and life; its key is generated in the cluster and never leaves it."""

    common_name: str = immutable("Estate CA", min_length=1, max_length=64)
    duration_days: int = Field(default=3650, ge=30, le=7300)
    renew_before_days: int = Field(default=365, ge=1)
    protect: bool = True


class Pki(Component):
    """Self-signed root -> CA certificate -> ClusterIssuer `estate-ca`.

    `issuer` is the issuer's name as an output; whoever asks for certificates depends on `ready`.
    `trust` is the name of the ConfigMap (key `ca.crt`) that every namespace has.
    """

    issuer: pulumi.Output[str]
    trust: str
    ready: Sequence[pulumi.Resource]

    def __init__(
        self,
        name: str,
        config: PkiConfig,
        *,
        namespaces: Mapping[str, pulumi.Output[str]],
        cert_manager: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("estate:platform:Pki", name, opts)
        root = CustomResource(
            "estate-selfsigned",
            api_version="cert-manager.io/v1",
            kind="ClusterIssuer",
            metadata=meta("estate-selfsigned", None, labels("estate-selfsigned")),
            spec={"selfSigned": {}},
            opts=self.child(depends_on=list(cert_manager)),
        )
        authority = CustomResource(
            "estate-ca-certificate",
            api_version="cert-manager.io/v1",
            kind="Certificate",
            metadata=meta(ISSUER, NAMESPACE, annotations={"pulumi.com/waitFor": "condition=Ready"}),
            spec={
                "isCA": True,
                "secretName": ISSUER,
                "commonName": config.common_name,
                "duration": f"{config.duration_days * 24}h0m0s",
                "renewBefore": f"{config.renew_before_days * 24}h0m0s",
                # Renewal keeps the key: certificates issued before stay valid under the new one.
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
                "issuerRef": {
                    "name": "estate-selfsigned",
                    "kind": "ClusterIssuer",
                    "group": "cert-manager.io",
                },
            },
            opts=self.child(depends_on=[root], protect=config.protect),
        )
        issuer = CustomResource(
            "estate-ca-issuer",
            api_version="cert-manager.io/v1",
            kind="ClusterIssuer",
            metadata=meta(
                ISSUER,
                None,
                labels(ISSUER),
                annotations={"pulumi.com/waitFor": "condition=Ready"},
            ),
            spec={"ca": {"secretName": ISSUER}},
            opts=self.child(depends_on=[authority]),
        )
        self.issuer = issuer.id.apply(lambda _: ISSUER)
        self.ready = [issuer]
        self.trust = TRUST_CONFIG_MAP
        self._distribute(namespaces, authority)
        self._declare_checks(list(namespaces))
        self.register_outputs({"issuer": self.issuer})

    def _distribute(
        self, namespaces: Mapping[str, pulumi.Output[str]], authority: CustomResource
    ) -> None:
        # The identifier hangs on an output of the certificate, so that a preview before the
        # first deployment knows that there is nothing to read yet.
        identifier = authority.id.apply(lambda _: f"{NAMESPACE}/{ISSUER}")
        secret = k8s.core.v1.Secret.get("estate-ca-secret", identifier, opts=self.child())
        # A certificate is public: kept out of the secrets, so that a preview can show its change.
        public = pulumi.Output.unsecret(secret.data.apply(_certificate))
        for namespace, created in namespaces.items():
            k8s.core.v1.ConfigMap(
                f"trust-{namespace}",
                metadata=meta(TRUST_CONFIG_MAP, created, labels(TRUST_CONFIG_MAP)),
                data={"ca.crt": public},
                opts=self.child(),
            )

    def _declare_checks(self, namespaces: list[str]) -> None:
        self.checks += [
            Check(
                id="cert-manager.issue",
                title="issues a certificate that verifies against the estate's CA",
                probe="cert_manager_issue",
                args={"namespace": NAMESPACE, "issuer": ISSUER, "trust": TRUST_CONFIG_MAP},
                fault=scale_to(0, "Deployment", NAMESPACE, "cert-manager"),
            ),
            Check(
                id="pki.trust",
                title="every namespace trusts the CA that issues",
                probe="pki_trust",
                args={
                    "namespaces": list(namespaces),
                    "trust": TRUST_CONFIG_MAP,
                    "ca": {"namespace": NAMESPACE, "secret": ISSUER, "key": "tls.crt"},
                },
                fault=Fault(
                    target=ObjectRef(
                        api_version="v1",
                        kind="ConfigMap",
                        namespace=namespaces[-1],
                        name=TRUST_CONFIG_MAP,
                    ),
                    patch={"data": {"ca.crt": "not a certificate"}},
                ),
            ),
        ]


def _certificate(data: Mapping[str, str] | None) -> str:
    return base64.b64decode((data or {}).get("tls.crt", "")).decode()
