"""`./estate bench`: rates, latencies and what the estate uses, in one run; ratios where they say
more than figures of one machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rehearsal import access, console, provenance, usage
from rehearsal.clients import Clients, exclusive
from rehearsal.drills.harness import need_green
from rehearsal.drills.up_command import run_up
from rehearsal.errors import EstateError
from rehearsal.rehearsal import Rehearsal

_SILENCE_S = 1500.0
WANTED = 0.8
"""Of a plain S3 put's rate, by image transfer."""
_SENT = (("50 MB files", "large"), ("200 KB images, 64 connections", "small"))


def run(name: str, out: Path | None) -> int:
    """Measure a green rehearsal; 0 when every figure could be taken."""
    rehearsal = real(name)
    provenance.writable(out)
    with exclusive(rehearsal, "bench"):
        need_green(rehearsal)
        console.step("what the idle estate uses")
        used = usage.by_component(rehearsal)
        # Before what is sent: its checks would wait behind the images that the pipeline then has.
        console.step("second `up`")
        code, seconds = run_up(rehearsal)
        if code != 0:
            log = rehearsal.folder / "logs" / "drill-up.log"
            raise EstateError("second up", f"failed ({code})", f"see {log}")
        figures = {**_clients(rehearsal), "second_up": {"seconds": seconds}}
    judge(figures)
    _show(figures, used)
    by_component = {key: vars(value) for key, value in used.items()}
    provenance.write(out, "bench", figures=figures, usage=by_component)
    return 0


def real(name: str) -> Rehearsal:
    """The rehearsal, which runs something. Raises EstateError."""
    rehearsal = Rehearsal(name)
    if rehearsal.required().mode != "node":
        raise EstateError(
            "bench",
            f"rehearsal {name} has simulated nodes only, on which nothing runs",
            "it needs a real node: see ./estate doctor for what this machine lacks",
        )
    return rehearsal


def _clients(rehearsal: Rehearsal) -> dict[str, Any]:
    hands = access.of(rehearsal)
    with Clients(rehearsal, "rehearsal.bench_clients", hands, {}) as process:
        while (event := process.event(_SILENCE_S)) is not None:
            if event["event"] == "part":
                console.step(event["part"])
            if event["event"] == "result":
                figures = event["figures"]
                assert isinstance(figures, dict)
                return figures
    raise EstateError(
        "bench", f"its clients said nothing for {_SILENCE_S:.0f} s", "see: ./estate logs"
    )


def judge(figures: dict[str, Any]) -> None:
    """Add to image transfer's figures what is wanted and whether it is met."""
    for _, key in _SENT if figures.get("transfer") else ():
        one = figures["transfer"][key]
        one |= {"wanted": WANTED, "met": one["tusd_to_put"] >= WANTED}


def targets(figures: dict[str, Any]) -> list[str]:
    """What image transfer is against what is wanted, in words."""
    lines = []
    for what, key in _SENT if figures.get("transfer") else ():
        one = figures["transfer"][key]
        ratio, wanted = one["tusd_to_put"], one["wanted"]
        judged = "met" if one["met"] else f"missed by {wanted - ratio:.3f}"
        lines.append(f"{what}: x {ratio:.2f} of a plain put's, x {wanted:.1f} wanted: {judged}")
    return lines


def rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures as a table: what, and the value with its unit."""
    kafka, postgres, mosquitto = figures["kafka"], figures["postgres"], figures["mosquitto"]
    size = kafka["message_bytes"]
    return [
        (f"Kafka produce, acks=all, {size} B", f"{kafka['produce_acks_all_per_s']:,.0f}/s"),
        (f"Kafka produce, acks=1, {size} B", f"{kafka['produce_acks_1_per_s']:,.0f}/s"),
        ("acks=all against acks=1", f"x {kafka['produce_acks_all_to_1']:.2f}"),
        (f"Kafka consume, {size} B", f"{kafka['consume_per_s']:,.0f}/s"),
        ("PostgreSQL write, direct, p50 / p99", _pair(postgres, "direct")),
        ("PostgreSQL write, through Pgpool, p50 / p99", _pair(postgres, "pool")),
        ("Pgpool against direct, p50", f"x {postgres['pool_to_direct_p50']:.2f}"),
        (
            "PostgreSQL connect, direct / through Pgpool",
            f"{postgres['connect_direct_ms']:.1f} / {postgres['connect_pool_ms']:.1f} ms",
        ),
        (
            f"MQTT publish, TLS, QoS 1, {mosquitto['payload_bytes']} B, one client",
            f"{mosquitto['publish_qos1_tls_per_s']:,.0f}/s",
        ),
        *_transfer(figures.get("transfer")),
        ("second `up`", f"{figures['second_up']['seconds']:.1f} s"),
    ]


def _transfer(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    rows = []
    for what, key in _SENT:
        one = found[key]
        both = f"{one['tusd_mb_per_s']:.1f} / {one['put_mb_per_s']:.1f} MB/s"
        rows.append((f"{what}, tusd / plain S3 put", both))
        rows.append((f"{what}, tusd against plain put", f"x {one['tusd_to_put']:.2f}"))
        if several := one.get("several"):
            beside = f"x {several['tusd_to_put']:.2f}"
            rows.append((f"{what}, three in a row, judged meanwhile", beside))
        for way in ("put", "parts", "tusd"):
            spent = one.get(f"{way}_cpu_s_per_gb", {})
            said = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
            if said:
                rows.append((f"{what}, {way}: CPU seconds per GB", said))
    return rows


def _pair(postgres: dict[str, float], way: str) -> str:
    return f"{postgres[f'{way}_p50_ms']:.2f} / {postgres[f'{way}_p99_ms']:.2f} ms"


def _show(figures: dict[str, Any], used: dict[str, usage.Usage]) -> None:
    console.table("Bench", ("what", "figure"), rows(figures))
    for line in targets(figures):
        console.say(line)
    ordered = sorted(used.items(), key=lambda item: -item[1].memory_mib)
    total = usage.Usage(
        sum(value.memory_mib for value in used.values()),
        sum(value.cpu_cores for value in used.values()),
    )
    console.table(
        "What it uses",
        ("component", "memory MiB", "CPU cores"),
        [
            (key, f"{value.memory_mib:.0f}", f"{value.cpu_cores:.3f}")
            for key, value in [*ordered, ("all", total)]
        ],
    )
