"""The console's dashboard: its own series (services/console/metrics.py)."""

from __future__ import annotations

from components.console.config import ConsoleConfig
from components.dashboards import PODS, RATE, Dashboard, graph, quantile, quiet, stat


def console_dashboard(name: str, namespace: str, config: ConsoleConfig) -> Dashboard:
    """Of one deployment."""
    requests = f"console_requests_total{{{PODS}"
    slow = quantile(0.95, f"console_request_seconds_bucket{{{PODS}}}")
    return Dashboard(
        name=name,
        title="Console",
        description="The lake's REST API: requests, answers, and what stands behind it.",
        namespace=namespace,
        source='up{container="console"}',
        pods=True,
        alerts="Console.+",
        health=[
            stat(
                "Replicas that answer",
                f"{config.replicas} are declared.",
                quiet(f'count(up{{{PODS}, container="console"}} == 1)'),
                red_below=config.replicas,
            ),
            stat(
                "Backends away",
                "No replica reaches them.",
                quiet(f"count(max by (backend) (console_backend_up{{{PODS}}}) == 0)"),
                red_from=1,
            ),
            stat(
                "Failures in 5 minutes",
                "Errors of its own: see its log.",
                quiet(f'sum(increase({requests}, status="500"}}[5m]))'),
                red_from=1,
            ),
            stat(
                "Slow requests (95th percentile)",
                "One of twenty takes longer; zero while nothing is asked.",
                slow,
                "s",
                red_from=2.5,
            ),
        ],
        traffic=[
            graph(
                "Requests by route",
                "What is asked for.",
                "reqps",
                {"{{route}}": quiet(f"sum by (route) (rate({requests}}}[{RATE}]))")},
            ),
        ],
        saturation=[
            graph(
                "Duration of requests",
                "A slow backend makes them long; zero while nothing is asked.",
                "s",
                {
                    "50 %": quantile(0.5, f"console_request_seconds_bucket{{{PODS}}}"),
                    "95 %": slow,
                },
            ),
            graph(
                "Resident memory",
                "Of each replica; the limit of its pod ends it.",
                "bytes",
                {"{{pod}}": f'process_resident_memory_bytes{{{PODS}, container="console"}}'},
            ),
        ],
        errors=[
            graph(
                "Answers that are errors",
                "4xx is the client's mistake, 5xx ours or a backend's.",
                "reqps",
                {
                    "{{status}}": quiet(
                        f'sum by (status) (rate({requests}, status=~"[45].."}}[{RATE}]))'
                    )
                },
            ),
            graph(
                "Backends that answer",
                "Replicas that reach each of them.",
                "short",
                {"{{backend}}": f"sum by (backend) (console_backend_up{{{PODS}}})"},
            ),
        ],
    )
