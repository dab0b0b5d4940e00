"""The model registry's dashboard: HAProxy's series and, of distribution, its own."""

from __future__ import annotations

from components.dashboards import PODS, Dashboard, graph, quantile, quiet, rate, stat


def model_repository_dashboard(name: str, namespace: str, *, distribution: bool) -> Dashboard:
    """Of one registry; what clients see are HAProxy's frontends `publish` and `read`."""
    doors = f'{PODS}, proxy=~"publish|read"'
    frontend = "haproxy_frontend"

    def up(door: str) -> str:
        found = f'haproxy_server_status{{{PODS}, proxy="{door}", state="UP"}}'
        return quiet(f"count({found} == 1)")

    def answers(code: str) -> str:
        return rate(f'{frontend}_http_responses_total{{{doors}, code="{code}"}}', "proxy")

    own = (
        [
            graph(
                "Duration of requests (95th percentile)",
                "As distribution measures it; uploads and files that are read take long.",
                "s",
                {
                    "95 %": quantile(
                        0.95, f"registry_http_request_duration_seconds_bucket{{{PODS}}}"
                    )
                },
            ),
            graph(
                "Memory",
                "Of each of the two processes.",
                "bytes",
                {"{{program}}": f"process_resident_memory_bytes{{{PODS}}}"},
            ),
        ]
        if distribution
        else []
    )
    return Dashboard(
        name=name,
        title="Model registry",
        description="Versions of models: who reads them, who adds them.",
        namespace=namespace,
        source='haproxy_frontend_http_requests_total{proxy="read"}',
        pods=True,
        alerts="ModelRegistry.+",
        health=[
            stat(
                "Reads",
                "Without it nothing that starts finds a model.",
                up("read"),
                red_below=1,
            ),
            stat(
                "Takes versions",
                "Without it nobody adds one.",
                up("publish"),
                red_below=1,
            ),
            stat(
                "Failures in 5 minutes",
                "Answers of 500 and above: is the disk full? See the pod's log.",
                quiet(
                    f'sum(increase({frontend}_http_responses_total{{{doors}, code="5xx"}}[5m]))',
                ),
                red_from=1,
            ),
        ],
        traffic=[
            graph(
                "Requests",
                "At the door of who reads and at that of who adds.",
                "reqps",
                {"{{proxy}}": rate(f"{frontend}_http_requests_total{{{doors}}}", "proxy")},
            ),
            graph(
                "Bytes",
                "Files that are read go out, those of new versions come in.",
                "binBps",
                {
                    "{{proxy}} in": rate(f"{frontend}_bytes_in_total{{{doors}}}", "proxy"),
                    "{{proxy}} out": rate(f"{frontend}_bytes_out_total{{{doors}}}", "proxy"),
                },
            ),
        ],
        saturation=[
            graph(
                "Connections",
                "Open now, at each door.",
                "short",
                {"{{proxy}}": f"sum by (proxy) ({frontend}_current_sessions{{{doors}}})"},
            ),
            *own,
        ],
        errors=[
            graph(
                "Refused requests",
                "Answers of 400 to 499: no password or a wrong one, and what is not there.",
                "reqps",
                {"{{proxy}}": quiet(answers("4xx"))},
            ),
            graph(
                "Failed requests",
                "Answers of 500 and above.",
                "reqps",
                {"{{proxy}}": quiet(answers("5xx"))},
            ),
        ],
    )
