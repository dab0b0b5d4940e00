"""The estate's own certificate authority, and its certificate in every namespace."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s
from pulumi_kubernetes.apiextensions import CustomResource

from components.authority import Authority, named
from components.checks import Check, scale_to, settings_fault
from components.platform.cert_manager import NAMESPACE
from components.platform.config import PkiConfig
from components.workload import ISSUER, TRUST_CONFIG_MAP, Component, labels, meta


class Pki(Component):
    """Self-signed root -> CA certificate -> ClusterIssuer, for each generation.

    `authority` is what others take to ask for certificates, after `ready`. `trust` is the name of
    the ConfigMap (key `ca.crt`: the certificates of all generations) that every namespace has.
    """

    authority: Authority
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
        made = {one: self._generation(one, config, root) for one in config.trusted}
        self.ready = [issuer for _, issuer in made.values()]
        self.authority = Authority(
            signing=config.generation,
            trusted=config.trusted,
            bundle=pulumi.Output.all(
                *(self._public(one, certificate) for one, (certificate, _) in made.items())
            ).apply("".join),
        )
        self.trust = TRUST_CONFIG_MAP
        for namespace, created in namespaces.items():
            k8s.core.v1.ConfigMap(
                f"trust-{namespace}",
                metadata=meta(TRUST_CONFIG_MAP, created, labels(TRUST_CONFIG_MAP)),
                data={"ca.crt": self.authority.bundle},
                opts=self.child(),
            )
        self._declare_checks(list(namespaces))
        self.register_outputs({"issuer": self.authority.issuer})

    def _generation(
        self, generation: int, config: PkiConfig, root: CustomResource
    ) -> tuple[CustomResource, CustomResource]:
        """The certificate of an authority, and the issuer that signs with it."""
        name = named(ISSUER, generation)
        certificate = CustomResource(
            f"{name}-certificate",
            api_version="cert-manager.io/v1",
            kind="Certificate",
            metadata=meta(name, NAMESPACE, annotations={"pulumi.com/waitFor": "condition=Ready"}),
            spec={
                "isCA": True,
                "secretName": name,
                # A name of its own: by name and key identifier verifiers tell authorities apart.
                "commonName": config.common_name + (f" {generation}" if generation > 1 else ""),
                "duration": f"{config.duration_days * 24}h0m0s",
                "renewBefore": f"{config.renew_before_days * 24}h0m0s",
                # Renewal keeps the key: certificates issued before stay valid under the new one.
                # Another key is another generation.
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
                "issuerRef": {
                    "name": "estate-selfsigned",
                    "kind": "ClusterIssuer",
                    "group": "cert-manager.io",
                },
            },
            # One that is trusted no more must not go by mistake: with it, all that it signed.
            opts=self.child(depends_on=[root], protect=config.protect),
        )
        issuer = CustomResource(
            f"{name}-issuer",
            api_version="cert-manager.io/v1",
            kind="ClusterIssuer",
            metadata=meta(
                name,
                None,
                labels(name),
                annotations={"pulumi.com/waitFor": "condition=Ready"},
            ),
            spec={"ca": {"secretName": name}},
            opts=self.child(depends_on=[certificate]),
        )
        return certificate, issuer

    def _public(self, generation: int, certificate: CustomResource) -> pulumi.Output[str]:
        name = named(ISSUER, generation)
        # The identifier hangs on an output of the certificate, so that a preview before the
        # first deployment knows that there is nothing to read yet.
        identifier = certificate.id.apply(lambda _: f"{NAMESPACE}/{name}")
        secret = k8s.core.v1.Secret.get(f"{name}-secret", identifier, opts=self.child())
        # A certificate is public: kept out of the secrets, so that a preview can show its change.
        return pulumi.Output.unsecret(secret.data.apply(_certificate))

    def _declare_checks(self, namespaces: list[str]) -> None:
        self.checks += [
            Check(
                id="cert-manager.issue",
                title="issues a certificate that verifies against the estate's CA",
                probe="cert_manager_issue",
                args={
                    "namespace": NAMESPACE,
                    "issuer": self.authority.issuer,
                    "trust": TRUST_CONFIG_MAP,
                },
                fault=scale_to(0, "Deployment", NAMESPACE, "cert-manager"),
            ),
            Check(
                id="pki.trust",
                title="every namespace trusts each generation of the CA, and no other",
                probe="pki_trust",
                args={
                    "namespaces": list(namespaces),
                    "trust": TRUST_CONFIG_MAP,
                    "ca": [
                        {"namespace": NAMESPACE, "secret": named(ISSUER, one), "key": "tls.crt"}
                        for one in self.authority.trusted
                    ],
                },
                fault=settings_fault(
                    namespaces[-1], TRUST_CONFIG_MAP, {"ca.crt": "not a certificate"}
                ),
            ),
        ]


def _certificate(data: Mapping[str, str] | None) -> str:
    return base64.b64decode((data or {}).get("tls.crt", "")).decode()
