"""Alert rules about certificates: not issued, renewal overdue, about to expire, the CA's end."""

from __future__ import annotations

from typing import Any

from components.workload import ISSUER, alert

DAY_S = 86_400
CRITICAL_DAYS = 14
"""Half of the 30 days before expiry at which certificates are renewed: a person has two weeks."""
AUTHORITY_DAYS = 90
"""Another generation takes three deployments, and clients outside must be given its certificate."""

READY = "certmanager_certificate_ready_status"
EXPIRES = "certmanager_certificate_expiration_timestamp_seconds"
RENEWS = "certmanager_certificate_renewal_timestamp_seconds"
AUTHORITY = f'name=~"{ISSUER}(-[0-9]+)?"'
"""Label matcher of the authority's own certificates, of every generation."""
_WHICH = "{{ $labels.namespace }}/{{ $labels.name }}"


def certificate_rules(namespace: str) -> list[dict[str, Any]]:
    """Rules of the group `cert-manager`, which runs in `namespace`; times are cert-manager's."""
    return [
        alert(
            "CertificateNotReady",
            f'max by (namespace, name) ({READY}{{condition!="True"}}) == 1',
            f"certificate {_WHICH} is not issued",
            for_s=300,
        ),
        alert(
            "CertificateRenewalOverdue",
            # Zero is: never issued, which CertificateNotReady tells.
            f"time() - max by (namespace, name) ({RENEWS} != 0) > {DAY_S}",
            f"certificate {_WHICH} should have been renewed a day ago; see its CertificateRequests",
            for_s=3600,
            severity="warning",
        ),
        alert(
            "CertificateExpiresSoon",
            f"max by (namespace, name) ({EXPIRES} > 0) - time() < {CRITICAL_DAYS} * {DAY_S}",
            f"certificate {_WHICH} was not renewed and expires within {CRITICAL_DAYS} days",
            for_s=3600,
        ),
        alert(
            "AuthorityExpiresSoon",
            f"max by (namespace, name) ({EXPIRES}{{{AUTHORITY}}} > 0) - time()"
            f" < {AUTHORITY_DAYS} * {DAY_S}",
            f"the CA {_WHICH} expires within {AUTHORITY_DAYS} days: begin its next generation "
            "(pki.also_trusted), or nothing that it signed is trusted any more",
            for_s=3600,
        ),
        alert(
            "CertManagerDown",
            f'absent(up{{namespace="{namespace}", container="cert-manager-controller"}} == 1)',
            "cert-manager is not scraped: certificates are not renewed",
            for_s=300,
        ),
    ]
