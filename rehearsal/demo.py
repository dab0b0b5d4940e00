"""`./estate demo`: a real sensor series through MQTT and Kafka into PostgreSQL, every message
accounted for by device and sequence number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from rehearsal import access, console
from rehearsal.clients import Clients, exclusive
from rehearsal.errors import EstateError
from rehearsal.rehearsal import Rehearsal

DEVICES = 6
_SILENCE_S = 90.0  # without any word from the clients, which report ten times a second
_PARTS = ("mqtt", "kafka", "postgres")


def run(name: str, messages: int, rate: float) -> int:
    """Replay `messages` readings at `rate` per second; 0 when every one of them was stored."""
    rehearsal = Rehearsal(name)
    if rehearsal.required().mode != "node":
        raise EstateError(
            "demo",
            f"rehearsal {name} has simulated nodes only, on which nothing runs",
            "it needs a real node: see ./estate doctor for what this machine lacks",
        )
    with exclusive(rehearsal, "demo"):
        result = _replay(rehearsal, messages, rate)
    console.table(
        f"Demo: sea surface temperatures (El Nino) from {DEVICES} devices",
        ("figure", "value"),
        figures(result),
    )
    times = breakdown(result["times"])
    console.table(
        "Where the time went (ms)",
        ("part", "p50", "p99", "share of the mean"),
        [(row["part"], row["p50_ms"], row["p99_ms"], row["share"]) for row in times],
    )
    for line in (*result["failures"][:3],):
        console.warn(f"met on the way, and got over: {line}")
    return verdict(result, messages)


def _replay(rehearsal: Rehearsal, messages: int, rate: float) -> dict[str, Any]:
    specification = {
        "run": time.strftime("%Y%m%d-%H%M%S"),
        "messages": messages,
        "rate": rate,
        "devices": DEVICES,
    }
    with (
        Clients(
            rehearsal, "rehearsal.demo_clients", access.of(rehearsal), specification
        ) as process,
        console.bars() as bars,
    ):
        tasks = {
            key: bars.add_task(text, total=messages, note="")
            for key, text in (
                ("sent", "published by devices"),
                ("forwarded", "in Kafka"),
                ("stored", "in PostgreSQL"),
            )
        }
        while (event := process.event(_SILENCE_S)) is not None:
            if event["event"] == "result":
                return event
            for key, task in tasks.items():
                bars.update(task, completed=event[key], note=str(event[key]))
    raise EstateError(
        "demo", f"its clients said nothing for {_SILENCE_S:.0f} s", "see: ./estate logs"
    )


def figures(result: dict[str, Any]) -> list[tuple[str, object]]:
    """The rows of the first table."""
    total = [sum(parts) for parts in result["times"]]
    return [
        ("sent", result["sent"]),
        ("acknowledged to the devices", result["acknowledged"]),
        ("stored", result["stored"]),
        ("duplicates (delivered again, stored once)", result["duplicates"]),
        ("missing", len(result["missing"])),
        ("latency p50, publish to committed row", f"{percentile(total, 50) * 1000:.1f} ms"),
        ("latency p99", f"{percentile(total, 99) * 1000:.1f} ms"),
        ("rate", f"{result['stored'] / max(result['seconds'], 1e-9):.1f} messages/s"),
    ]


def breakdown(times: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Per part (device to bridge, to sink, to row) its percentiles and its share of the mean."""
    total = sum(sum(parts) for parts in times) or 1.0
    rows = []
    for index, part in enumerate(_PARTS):
        column = [parts[index] for parts in times]
        rows.append(
            {
                "part": part,
                "p50_ms": f"{percentile(column, 50) * 1000:.1f}",
                "p99_ms": f"{percentile(column, 99) * 1000:.1f}",
                "share": f"{100 * sum(column) / total:.0f} %",
            }
        )
    return rows


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed; NaN for none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def verdict(result: dict[str, Any], messages: int) -> int:
    """Name what is not as it must be; the exit code."""
    for what in ("missing", "altered"):
        keys = result[what]
        if keys:
            shown = ", ".join(f"({device}, {sequence})" for device, sequence in keys[:20])
            more = f" and {len(keys) - 20} more" if len(keys) > 20 else ""
            console.warn(f"{what} (device, sequence): {shown}{more}")
    complete = result["sent"] == messages == result["stored"]
    if not complete or result["missing"] or result["altered"]:
        console.warn(f"{result['stored']} of {messages} messages are in PostgreSQL")
        return 1
    return 0
