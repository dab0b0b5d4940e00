"""The dashboard of certificates: cert-manager's series of them, and of its own work."""

from __future__ import annotations

from components.dashboards import HERE, RATE, Dashboard, graph, quiet, stat
from components.platform.certificate_rules import (
    AUTHORITY,
    AUTHORITY_DAYS,
    CRITICAL_DAYS,
    DAY_S,
    EXPIRES,
    READY,
    RENEWS,
)


def certificate_dashboard(name: str, namespace: str) -> Dashboard:
    """Of all certificates; `$namespace` is theirs, and not that of cert-manager."""
    left = f"({EXPIRES}{{{HERE}}} > 0) - time()"
    return Dashboard(
        name=name,
        title="Certificates",
        description="What cert-manager issues and renews, and what is about to end.",
        namespace=namespace,
        source=READY,
        alerts="Certificate.+|AuthorityExpiresSoon|CertManagerDown",
        health=[
            stat(
                "Controllers that answer",
                "Without one nothing is renewed.",
                quiet('count(up{container="cert-manager-controller"} == 1)'),
                red_below=1,
            ),
            stat(
                "Not issued",
                "See the CertificateRequests of what is not ready.",
                quiet(f'count({READY}{{{HERE}, condition!="True"}} == 1)'),
                red_from=1,
            ),
            stat(
                "Renewals overdue by a day",
                "See the CertificateRequests of what is late.",
                quiet(f"count(time() - ({RENEWS}{{{HERE}}} != 0) > {DAY_S})"),
                red_from=1,
            ),
            stat(
                "The first to end",
                "Certificates are renewed a third of their life before.",
                f"min({left})",
                "s",
                red_below=CRITICAL_DAYS * DAY_S,
            ),
            stat(
                "The authority's end",
                "Begin its next generation in time (pki.also_trusted).",
                f"min(({EXPIRES}{{{AUTHORITY}}} > 0) - time())",
                "s",
                red_below=AUTHORITY_DAYS * DAY_S,
            ),
        ],
        traffic=[
            graph(
                "Work of the controllers",
                "How often each of cert-manager's controllers looks at an object.",
                "ops",
                {
                    "{{controller}}": "sum by (controller) "
                    f"(rate(certmanager_controller_sync_call_count[{RATE}]))"
                },
            ),
        ],
        saturation=[
            graph(
                "Time left",
                "The ten certificates that end first.",
                "s",
                {"{{namespace}}/{{name}}": f"bottomk(10, {left})"},
            ),
        ],
        errors=[
            graph(
                "Failed work",
                "It is tried again; see the log of cert-manager.",
                "ops",
                {
                    "{{controller}}": quiet(
                        "sum by (controller) "
                        f"(rate(certmanager_controller_sync_error_count[{RATE}]))"
                    )
                },
            ),
        ],
    )
