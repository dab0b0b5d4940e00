"""What Prometheus may know of the console."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("console_requests", "Requests that were answered", ["route", "method", "status"])
SECONDS = Histogram(
    "console_request_seconds",
    "From a request to the end of its answer",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
BACKEND_UP = Gauge("console_backend_up", "1 while a backend answers this replica", ["backend"])
"""A series for each backend that is declared, and for no other."""
