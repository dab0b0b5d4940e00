"""The dashboard of Strimzi's operator, by the series of its own documentation."""

from __future__ import annotations

from components.dashboards import HERE, RATE, Dashboard, graph, quiet, stat


def strimzi_dashboard(name: str, namespace: str) -> Dashboard:
    """Of the operator; it tells of resources in every namespace."""
    job = f'{HERE}, job=~".*{name}"'

    def rate(what: str) -> dict[str, str]:
        series = f"strimzi_reconciliations{what}_total{{{job}}}"
        return {"{{kind}}": quiet(f"sum by (kind) (rate({series}[{RATE}]))")}

    return Dashboard(
        name=name,
        title="Strimzi",
        description="The operator of Kafka, and what it has in hand.",
        namespace=namespace,
        source=f'up{{job=~".*{name}"}}',
        alerts="Strimzi.+",
        health=[
            stat(
                "Replicas that answer",
                "Without one no certificate is renewed and no broker replaced.",
                quiet(f"count(up{{{job}}} == 1)"),
                red_below=1,
            ),
            stat(
                "Resources not as declared",
                "Their status says why.",
                quiet(f"count(strimzi_resource_state{{{job}}} == 0)"),
                red_from=1,
            ),
            stat(
                "The first certificate to end",
                "Strimzi renews them itself, 30 days before.",
                f"min(strimzi_certificate_expiration_timestamp_ms{{{job}}}) / 1000 - time()",
                "s",
                red_below=14 * 86_400,
            ),
        ],
        traffic=[
            graph(
                "Reconciliations",
                "How often declaration and state are compared, by kind.",
                "ops",
                rate(""),
            ),
        ],
        saturation=[
            graph(
                "Resources in hand",
                "By kind.",
                "short",
                {"{{kind}}": quiet(f"count by (kind) (strimzi_resource_state{{{job}}})")},
            ),
        ],
        errors=[
            graph(
                "Failed reconciliations",
                "They are tried again; the operator's log has their reasons.",
                "ops",
                rate("_failed"),
            ),
        ],
    )
