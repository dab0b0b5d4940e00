"""The dashboard of serving: series of Triton, HAProxy, the sidecars and the controller."""

from __future__ import annotations

from components.dashboards import HERE, Dashboard, graph, quantile, quiet, rate, stat
from components.triton.config import TritonConfig


def serving_dashboard(name: str, namespace: str, config: TritonConfig) -> Dashboard:
    """What clients see is HAProxy's frontend `inference`."""
    answers = f'haproxy_frontend_http_responses_total{{{HERE}, proxy="inference", code="'
    wait = rate(f"nv_inference_queue_duration_us{{{HERE}}}", "model")
    asked = rate(f"nv_inference_request_success{{{HERE}}}", "model")
    took = rate(f"nv_inference_request_duration_us{{{HERE}}}", "model")
    return Dashboard(
        name=name,
        title="Model serving",
        description="Versions, rollouts, requests and what they cost.",
        namespace=namespace,
        source="serving_round_timestamp_seconds",
        alerts="Serving.+",
        health=[
            *(
                stat(
                    f"Tritons that take requests ({pool.name})",
                    f"{pool.replicas} are declared.",
                    quiet(
                        f"max(haproxy_backend_active_servers{{{HERE}, "
                        f'proxy="{pool.name}-stable-http"}})'
                    ),
                    red_below=pool.replicas,
                )
                for pool in config.pools
            ),
            stat(
                "Refused versions",
                "Declared and not served: ConfigMap serving-state says why.",
                quiet(f"sum(serving_model_refused{{{HERE}}})"),
                red_from=1,
            ),
            stat(
                "Since the controller's last round",
                "It takes one about every second.",
                f"time() - max(serving_round_timestamp_seconds{{{HERE}}})",
                "s",
                red_from=60,
            ),
        ],
        traffic=[
            graph(
                "Requests",
                "Answered by Triton, by model and version: during a rollout two versions answer.",
                "reqps",
                {
                    "{{model}} {{version}}": quiet(
                        rate(f"nv_inference_request_success{{{HERE}}}", "model, version")
                    )
                },
            ),
            graph(
                "Versions",
                "Which version a track serves.",
                "short",
                {
                    "{{model}} {{track}}": quiet(
                        f"max by (model, track) (serving_model_version{{{HERE}}})"
                    )
                },
            ),
            graph(
                "The canary's share",
                "Per cent of a model's requests.",
                "short",
                {"{{model}}": quiet(f"max by (model) (serving_canary_weight{{{HERE}}})")},
            ),
            graph(
                "Requests in one execution",
                "What dynamic batching makes of them.",
                "short",
                {
                    "{{model}}": quiet(
                        f"({rate(f'nv_inference_count{{{HERE}}}', 'model')} / "
                        f"({rate(f'nv_inference_exec_count{{{HERE}}}', 'model')} > 0))"
                    )
                },
            ),
        ],
        saturation=[
            graph(
                "Time in the queue",
                "Mean of a request; where it rises, more instances or replicas are wanted.",
                "ms",
                {"{{model}}": quiet(f"({wait} / ({asked} > 0) / 1000)")},
            ),
            graph(
                "Time in Triton",
                "Mean of a request, queue and model.",
                "ms",
                {"{{model}}": quiet(f"({took} / ({asked} > 0) / 1000)")},
            ),
            graph(
                "How long a rollout is where it is",
                "By model and phase; beyond ten minutes in one it hangs.",
                "s",
                {
                    "{{model}} {{phase}}": quiet(
                        "(time() - max by (model, phase) "
                        f'(serving_phase_timestamp_seconds{{{HERE}, phase!="idle"}}))'
                    )
                },
            ),
            graph(
                "From the registry to a pod (95th percentile)",
                "Zero while nothing is pulled.",
                "s",
                {"95 %": quantile(0.95, f"serving_pull_seconds_bucket{{{HERE}}}")},
            ),
        ],
        errors=[
            graph(
                "Answers that are errors",
                "4xx is the client's mistake; 5xx ours, or a body that Triton cannot read.",
                "reqps",
                {
                    "4xx": rate(f'{answers}4xx"}}'),
                    "5xx": rate(f'{answers}5xx"}}'),
                },
            ),
            graph(
                "Requests that Triton could not answer",
                "By model and version.",
                "reqps",
                {
                    "{{model}} {{version}}": quiet(
                        rate(f"nv_inference_request_failure{{{HERE}}}", "model, version")
                    )
                },
            ),
            graph(
                "Loads that failed",
                "What Triton was told to load and could not.",
                "ops",
                {
                    "{{model}}": quiet(
                        rate(f'serving_loads_total{{{HERE}, result="failed"}}', "model")
                    )
                },
            ),
            graph(
                "Rollouts",
                "How they ended.",
                "ops",
                {"{{result}}": quiet(rate(f"serving_rollouts_total{{{HERE}}}", "result"))},
            ),
        ],
    )
