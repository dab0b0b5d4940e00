"""The dashboard of image transfer: series of HAProxy, tusd and the service itself."""

from __future__ import annotations

from components.dashboards import PODS, Dashboard, graph, quantile, quiet, rate, stat
from components.datalake.transfer_config import TransferConfig


def transfer_dashboard(name: str, namespace: str, config: TransferConfig) -> Dashboard:
    """Of one deployment; what clients see is HAProxy's frontend `clients`."""
    clients = f'{PODS}, proxy="clients"'
    answers = f"haproxy_frontend_http_responses_total{{{clients}, code="

    return Dashboard(
        name=name,
        title="Image transfer",
        description="Uploads, what was judged of them, and what waits.",
        namespace=namespace,
        source="transfer_unreceipted",
        pods=True,
        alerts="Transfer.+",
        health=[
            stat(
                "Replicas that take uploads",
                f"{config.replicas} are declared.",
                quiet(
                    f'count(haproxy_server_status{{{PODS}, proxy="own", state="UP"}} == 1)',
                ),
                red_below=config.replicas,
            ),
            stat(
                "Uploads without a receipt",
                "Finished, and not told to Kafka: see the log of the container service.",
                f"max(transfer_unreceipted{{{PODS}}})",
                red_from=1,
            ),
            stat(
                "Since the last sweep",
                "It looks for uploads whose hook is lost.",
                f"time() - min(transfer_swept_timestamp_seconds{{{PODS}}})",
                "s",
                red_from=config.sweep_s * 5 + 60,
            ),
            stat(
                "Failures in 5 minutes",
                "The object store or Kafka refused what the service asked; it tries again.",
                f"sum(increase(transfer_failures_total{{{PODS}}}[5m]))",
                red_from=1,
            ),
            stat(
                "tusd's failures in 5 minutes",
                "It could not keep what it got: does the object store answer?",
                quiet(f'sum(increase(tusd_errors_total{{{PODS}, status="500"}}[5m]))'),
                red_from=1,
            ),
        ],
        traffic=[
            graph(
                "Bytes received",
                "What tusd took in, by replica.",
                "binBps",
                {"{{pod}}": rate(f"tusd_bytes_received{{{PODS}}}", "pod")},
            ),
            graph(
                "Uploads",
                "Begun and finished ones; a batch is one upload.",
                "ops",
                {
                    "begun": rate(f"tusd_uploads_created{{{PODS}}}"),
                    "finished": rate(f"tusd_uploads_finished{{{PODS}}}"),
                },
            ),
            graph(
                "Images",
                "As they were told to Kafka, by what was found.",
                "ops",
                {"{{state}}": quiet(rate(f"transfer_images_total{{{PODS}}}", "state"))},
            ),
            graph(
                "Requests",
                "Of clients, at the proxy.",
                "reqps",
                {"{{pod}}": rate(f"haproxy_frontend_http_requests_total{{{clients}}}", "pod")},
            ),
        ],
        saturation=[
            graph(
                "Uploads in hand",
                "Those that wait for a worker, and those that clients have not finished.",
                "short",
                {
                    "waiting": f"sum(transfer_waiting{{{PODS}}})",
                    "unfinished": f"max(transfer_unfinished{{{PODS}}})",
                },
            ),
            graph(
                "From upload to receipt (95th percentile)",
                "It is the store's and Kafka's time; zero while nothing comes.",
                "s",
                {"95 %": quantile(0.95, f"transfer_upload_seconds_bucket{{{PODS}}}")},
            ),
            graph(
                "Sessions",
                "Connections of clients, and of how many the proxy takes.",
                "short",
                {
                    "open {{pod}}": f"haproxy_frontend_current_sessions{{{clients}}}",
                    "limit {{pod}}": f"haproxy_frontend_limit_sessions{{{clients}}}",
                },
            ),
        ],
        errors=[
            graph(
                "Answers that are errors",
                "4xx is the client's mistake, 5xx ours.",
                "reqps",
                {"{{code}}": rate(f'{answers}~"4xx|5xx"}}', "code")},
            ),
            graph(
                "Refused uploads",
                "Before they began, by reason.",
                "ops",
                {"{{why}}": quiet(rate(f"transfer_refused_total{{{PODS}}}", "why"))},
            ),
            graph(
                "Quarantined images",
                "By reason; topic images.quarantined has them.",
                "ops",
                {
                    "{{reason}}": quiet(
                        rate(f'transfer_images_total{{{PODS}, state="quarantined"}}', "reason")
                    )
                },
            ),
            graph(
                "Failed hooks",
                "tusd could not tell the service; the sweep finds what it missed.",
                "ops",
                {"{{hooktype}}": rate(f"tusd_hook_errors_total{{{PODS}}}", "hooktype")},
            ),
        ],
    )
