"""The primary's pod deleted by force under writes: outage, acknowledged rows lost, timeline.

`run` works on any DSN and any way to break the primary; `run_in_cluster` does it to a
CloudNativePG cluster with the kubernetes client, and records when each step of the failover
happened: the elected target, the lease, the endpoint.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg
from psycopg import sql

GROUP, VERSION, CLUSTERS = "postgresql.cnpg.io", "v1", "clusters"


@dataclass(frozen=True)
class Acknowledged:
    """A row that the database said was committed; `at` in seconds of the monotonic clock."""

    at: float
    row: int


@dataclass
class Outcome:
    """What a drill found. Times in seconds; `timeline` counts from the deletion."""

    acknowledged: int
    failed: int
    outage_s: float
    lost: list[int]
    unacknowledged_stored: int
    errors: dict[str, int]
    timeline: list[tuple[float, str]] = field(default_factory=list)

    def json_object(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


class Writer(threading.Thread):
    """Inserts one row after another, reconnecting at once when something fails."""

    def __init__(self, dsn: str, table: str, *, pause_s: float, statement_timeout_s: float) -> None:
        super().__init__(name="drill-writer", daemon=True)
        self._dsn, self._pause_s = dsn, pause_s
        self._timeout_ms = int(statement_timeout_s * 1000)
        self._insert = sql.SQL("INSERT INTO {} (row) VALUES (%s)").format(sql.Identifier(table))
        self._stop_asked = threading.Event()
        self.acknowledged: list[Acknowledged] = []
        self.attempts = 0
        self.errors: Counter[str] = Counter()

    def run(self) -> None:
        """Write until `stop`."""
        connection: psycopg.Connection[Any] | None = None
        while not self._stop_asked.is_set():
            row = self.attempts
            self.attempts += 1
            try:
                if connection is None:
                    connection = connect(self._dsn, self._timeout_ms)
                connection.execute(self._insert, (row,))
                self.acknowledged.append(Acknowledged(time.monotonic(), row))
                time.sleep(self._pause_s)
            except psycopg.Error as error:
                self.errors[first_line(error)] += 1
                if connection is not None:
                    with contextlib.suppress(psycopg.Error):
                        connection.close()
                connection = None
                time.sleep(0.05)
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        """Let the row in flight end."""
        self._stop_asked.set()
        self.join(timeout=60)


def connect(dsn: str, statement_timeout_ms: int = 3000) -> psycopg.Connection[Any]:
    """A connection that gives up soon: 2 s to connect, 3 s for unacknowledged packets."""
    return psycopg.connect(
        dsn,
        autocommit=True,
        connect_timeout=2,
        tcp_user_timeout=3000,
        options=f"-c statement_timeout={statement_timeout_ms}",
        # Prepared statements would outlive the session behind a pool.
        prepare_threshold=None,
    )


def first_line(error: Exception) -> str:
    """The first line of an error, the key under which errors are counted."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def outage(acknowledged: list[Acknowledged], killed: float) -> float:
    """Longest time without an acknowledgement that ended after `killed`, counted from there on.

    Infinite when nothing was acknowledged after `killed`.
    """
    after = [entry.at for entry in acknowledged if entry.at > killed]
    if not after:
        return float("inf")
    before = [killed, *after[:-1]]
    return max(end - start for start, end in zip(before, after, strict=True))


def run(
    dsn: str,
    break_primary: Callable[[], object],
    *,
    table: str = "drill_failover",
    before_s: float = 5.0,
    after_s: float = 45.0,
    pause_s: float = 0.01,
    observe: Callable[[], dict[str, str]] | None = None,
) -> Outcome:
    """Write through `dsn`, break the primary after `before_s`, write on for `after_s`, and count.

    `observe` is polled every 0.1 s and returns facts by name; every change goes into the
    timeline. The table is dropped at the end. Raises psycopg.Error when the database does not
    answer before, or within a minute after the drill.
    """
    name = sql.Identifier(table)
    with connect(dsn) as connection:
        connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
        connection.execute(sql.SQL("CREATE TABLE {} (row bigint PRIMARY KEY)").format(name))
    writer = Writer(dsn, table, pause_s=pause_s, statement_timeout_s=3.0)
    writer.start()
    time.sleep(before_s)
    with observer(observe) as events:
        killed = time.monotonic()
        break_primary()
        events.append((time.monotonic(), "deletion answered"))
        time.sleep(after_s)
    writer.stop()
    stored = _stored(dsn, table)
    acknowledged = {entry.row for entry in writer.acknowledged}
    return Outcome(
        acknowledged=len(writer.acknowledged),
        failed=writer.attempts - len(writer.acknowledged),
        outage_s=round(outage(writer.acknowledged, killed), 2),
        lost=sorted(acknowledged - stored),
        unacknowledged_stored=len(stored - acknowledged),
        errors=dict(writer.errors.most_common(8)),
        timeline=_timeline(events, writer.acknowledged, killed),
    )


def _stored(dsn: str, table: str) -> set[int]:
    deadline = time.monotonic() + 60
    while True:
        try:
            with connect(dsn) as connection:
                # Inside a transaction after a write the pool asks the primary.
                with connection.transaction():
                    connection.execute(
                        sql.SQL("INSERT INTO {} VALUES (-1)").format(sql.Identifier(table))
                    )
                    found = connection.execute(
                        sql.SQL("SELECT row FROM {} WHERE row >= 0").format(sql.Identifier(table))
                    ).fetchall()
                connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(table)))
                return {int(row[0]) for row in found}
        except psycopg.Error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _timeline(
    events: list[tuple[float, str]], acknowledged: list[Acknowledged], killed: float
) -> list[tuple[float, str]]:
    first = next((entry.at for entry in acknowledged if entry.at > killed + 1.5), None)
    last = max((entry.at for entry in acknowledged if entry.at <= killed + 1.5), default=None)
    marks = list(events)
    if last is not None:
        marks.append((last, "last row acknowledged by the old primary"))
    if first is not None:
        marks.append((first, "first row acknowledged afterwards"))
    return [(round(at - killed, 2), what) for at, what in sorted(marks)]


@contextlib.contextmanager
def observer(observe: Callable[[], dict[str, str]] | None) -> Iterator[list[tuple[float, str]]]:
    """Poll `observe` in a thread; the list gets `(monotonic time, "name: value")` per change."""
    events: list[tuple[float, str]] = []
    done = threading.Event()

    def poll() -> None:
        seen: dict[str, str] = {}
        while observe is not None and not done.is_set():
            try:
                for name, value in observe().items():
                    if name in seen and seen[name] != value:
                        events.append((time.monotonic(), f"{name}: {value}"))
                    seen[name] = value
            except Exception as error:  # the API server may be what is broken
                text = f"observer: {first_line(error)}"
                if seen.get("observer") != text:
                    events.append((time.monotonic(), text))
                seen["observer"] = text
            done.wait(0.1)

    thread = threading.Thread(target=poll, name="drill-observer", daemon=True)
    thread.start()
    try:
        yield events
    finally:
        done.set()
        thread.join(timeout=10)


def run_in_cluster(
    dsn: str,
    *,
    core: Any,
    custom: Any,
    coordination: Any,
    discovery: Any,
    namespace: str = "datalake",
    cluster: str = "postgres",
    **options: Any,
) -> Outcome:
    """Delete the primary's pod of a CloudNativePG cluster by force; see `run` for the rest.

    `core`, `custom`, `coordination`, `discovery` are the kubernetes client's CoreV1Api,
    CustomObjectsApi, CoordinationV1Api, DiscoveryV1Api. Raises RuntimeError when the cluster
    is not healthy before the drill.
    """

    def status() -> dict[str, Any]:
        found = custom.get_namespaced_custom_object(GROUP, VERSION, namespace, CLUSTERS, cluster)
        return dict(found.get("status", {}))

    before = status()
    primary = before.get("currentPrimary", "")
    if not primary or before.get("readyInstances") != before.get("instances"):
        raise RuntimeError(
            f"cluster {namespace}/{cluster} has {before.get('readyInstances', 0)} of "
            f"{before.get('instances')} instances ready; wait until it is healthy"
        )

    def observe() -> dict[str, str]:
        now = status()
        lease = coordination.read_namespaced_lease(cluster, namespace)
        slices = discovery.list_namespaced_endpoint_slice(
            namespace, label_selector=f"kubernetes.io/service-name={cluster}-rw"
        )
        ready = [
            endpoint.target_ref.name
            for item in slices.items
            for endpoint in item.endpoints or []
            if endpoint.target_ref is not None and endpoint.conditions.ready
        ]
        return {
            "target primary": str(now.get("targetPrimary")),
            "current primary": str(now.get("currentPrimary")),
            "phase": str(now.get("phase")),
            "ready instances": str(now.get("readyInstances", 0)),
            "lease holder": str(lease.spec.holder_identity),
            "write endpoint": ", ".join(sorted(ready)) or "none",
        }

    def delete() -> None:
        core.delete_namespaced_pod(primary, namespace, grace_period_seconds=0)

    return run(dsn, delete, observe=observe, **options)
