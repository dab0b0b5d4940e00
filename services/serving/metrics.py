"""What Prometheus may know of the sidecars and of the controller."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# Of a sidecar.
READY = Gauge("serving_version_ready", "1 where Triton serves the version", ["model", "version"])
REFUSED = Gauge("serving_version_refused", "1 where it was refused", ["model", "version", "gate"])
PULLED = Histogram(
    "serving_pull_seconds",
    "From the registry to this pod, one version",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
LOADS = Counter("serving_loads", "Models that Triton was told to load", ["model", "result"])
# Of the controller.
SERVED = Gauge("serving_model_version", "Which version a track serves", ["model", "track"])
WEIGHT = Gauge("serving_canary_weight", "Per cent of requests that the canary gets", ["model"])
MODEL_REFUSED = Gauge("serving_model_refused", "1 while the declared version is refused", ["model"])
SINCE = Gauge("serving_phase_timestamp_seconds", "When the phase began", ["model", "phase"])
ROLLOUTS = Counter("serving_rollouts", "How rollouts ended", ["model", "result"])
ROUND_AT = Gauge("serving_round_timestamp_seconds", "When the last whole round ended")
