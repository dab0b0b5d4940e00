"""What Prometheus may know: images by state, messages not yet stored, Dagster's runs."""

from __future__ import annotations

import logging
import time

from prometheus_client import Gauge, start_http_server

from services.pipeline import collect, connect
from services.pipeline.catalogue import Catalogue
from services.pipeline.settings import Settings

PERIOD_S = 15

IMAGES = Gauge("pipeline_images", "Images with a receipt", ["state"])
QUARANTINED = Gauge("pipeline_quarantined", "Images with a receipt of quarantine", ["reason"])
LAG = Gauge("pipeline_lag", "Messages of the topic that are not stored yet", ["topic"])
RUNS = Gauge("pipeline_runs", "Dagster's runs", ["job", "status"])
BEATS = Gauge("pipeline_daemon_heartbeat_timestamp_seconds", "Last sign of life", ["daemon"])
LOOKED_AT = Gauge("pipeline_looked_timestamp_seconds", "When all of this was last read")

_log = logging.getLogger("pipeline")


def serve(settings: Settings) -> int:
    """Serve for ever; what cannot be read keeps its last value, and LOOKED_AT says since when."""
    start_http_server(settings.metrics_port)
    while True:
        try:
            look(settings)
        except Exception as error:  # whatever a client raises: the next look may succeed
            _log.warning("%s: %s", type(error).__name__, " ".join(str(error).split())[:300])
        time.sleep(PERIOD_S)


def look(settings: Settings) -> None:
    """Read everything once. Raises what the clients raise."""
    with connect.postgres(settings, settings.catalogue) as session:
        catalogue = Catalogue(session)
        for state, count in catalogue.counts().items():
            IMAGES.labels(state).set(count)
        for reason, count in catalogue.reasons().items():
            QUARANTINED.labels(reason).set(count)
    with connect.postgres(settings, settings.dagster) as session:
        runs = session.execute("SELECT pipeline_name, status, count(*) FROM runs GROUP BY 1, 2")
        RUNS.clear()
        for job, status, count in runs:
            RUNS.labels(job, str(status).lower()).set(count)
        beats = session.execute(
            "SELECT daemon_type, extract(epoch FROM timestamp AT TIME ZONE 'UTC') "
            "FROM daemon_heartbeats"
        )
        for daemon, at in beats:
            BEATS.labels(str(daemon).lower()).set(float(at))
    for topic, count in collect.lag(connect.kafka(settings), settings.kafka.group).items():
        LAG.labels(topic).set(count)
    LOOKED_AT.set_to_current_time()
