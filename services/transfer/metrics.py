"""What Prometheus may know of the service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

IMAGES = Counter(
    "transfer_images", "Images told to Kafka; reason is empty for good ones", ["state", "reason"]
)
BYTES = Counter("transfer_bytes", "Bytes of finished uploads that were judged")
UPLOADS = Counter("transfer_uploads", "Finished uploads that have a receipt now", ["found_by"])
FAILURES = Counter(
    "transfer_failures", "Uploads that could not be judged or told of; they are tried again"
)
REFUSED = Counter("transfer_refused", "Uploads refused before they began", ["why"])
SECONDS = Histogram(
    "transfer_upload_seconds",
    "From the hook or the sweep to the receipt of one upload",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
WAITING = Gauge("transfer_waiting", "Finished uploads that wait for a worker")
UNRECEIPTED = Gauge(
    "transfer_unreceipted", "Finished uploads without a receipt, as the last sweep found them"
)
UNFINISHED = Gauge("transfer_unfinished", "Uploads begun and not finished, as the last sweep saw")
SWEPT_AT = Gauge("transfer_swept_timestamp_seconds", "When the last complete sweep ended")
