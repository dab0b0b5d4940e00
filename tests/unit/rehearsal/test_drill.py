from __future__ import annotations

import fcntl
import json
import math
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rehearsal import bench, drill, provenance, verify
from rehearsal.drills import harness, mongodb
from rehearsal.drills.harness import Result, Written, log_times, longest_gap, observer, timeline
from rehearsal.drills.record import Record
from rehearsal.errors import EstateError, UsageError
from rehearsal.inside import Row
from rehearsal.rehearsal import Rehearsal
from tests.unit.rehearsal.conftest import Folders

# -- outage --------------------------------------------------------------------------------------


def acks(*times: float, lane: int = 0) -> list[tuple[float, int]]:
    return [(at, lane) for at in times]


def test_the_outage_is_the_longest_gap_after_the_blow() -> None:
    assert longest_gap(acks(1.0, 2.0, 3.0, 9.5, 9.6), 2.9) == (6.5, 9.5)


def test_a_gap_that_began_before_counts_from_the_blow() -> None:
    assert longest_gap(acks(1.0, 9.0), 4.0) == (5.0, 9.0)


def test_a_slow_start_before_the_blow_does_not_count() -> None:
    assert longest_gap(acks(0.0, 50.0, 50.25, 50.5), 50.125)[0] == 0.25


def test_the_worst_lane_counts_while_others_go_on() -> None:
    steady = acks(*(at / 10 for at in range(100)))
    assert longest_gap([*steady, *acks(0.5, 7.5, 7.6, lane=2)], 1.0) == (6.5, 7.5)


@pytest.mark.parametrize("found", [[], acks(1.0, 2.0), [*acks(1.0, lane=1), *acks(1.0, 4.0)]])
def test_what_is_served_no_more_is_an_endless_outage(found: list[tuple[float, int]]) -> None:
    assert math.isinf(longest_gap(found, 3.0)[0])


def test_the_timeline_names_both_ends_of_an_outage() -> None:
    found = harness.outage_events({"writer": "postgres", "acks": acks(10.0, 14.5, 14.6)}, 10.25)
    assert timeline(found, 10.25) == [
        (0.0, "postgres: outage begins"),
        (4.25, "postgres: outage ends, first acknowledgement after 4.25 s"),
    ]
    assert harness.outage_events({"writer": "mqtt", "acks": acks(10.0, 10.1, 10.2)}, 10.0) == []


def test_the_timeline_leaves_out_what_was_before() -> None:
    assert timeline([(1.0, "connected"), (12.0, "b"), (11.0, "a")], 10.0) == [
        (1.0, "a"),
        (2.0, "b"),
    ]


# -- what was kept -------------------------------------------------------------------------------


def test_lost_is_what_was_acknowledged_and_is_not_there() -> None:
    record = Record("kafka")
    for item in (0, 1, 2):
        record.acknowledge(item)
    record.attempts = 5
    summary = record.summary({0, 2, 3})
    assert (summary["acknowledged"], summary["stored"], summary["lost"]) == (3, 3, [1])
    written = harness.written({"writer": "kafka", **summary}, time.monotonic() - 60)
    assert written.lost == 1 and written.lost_items == [1]


def test_an_acknowledgement_that_comes_twice_is_one() -> None:
    record = Record("mqtt")
    record.acknowledge(4)
    record.acknowledge(4)
    assert record.summary({4})["acknowledged"] == 1


def test_errors_are_counted_by_their_first_line() -> None:
    record = Record("postgres")
    record.error(ValueError("one\ntwo"))
    record.error(ValueError("one\nthree"))
    record.error(ValueError())
    assert record.errors == {"one": 2, "ValueError": 1}


def test_the_observer_records_changes_and_survives_errors() -> None:
    answers: Iterator[dict[str, str] | Exception] = iter(
        [{"primary": "a"}, {"primary": "a"}, ConnectionError("refused\nmore")]
    )

    def observe() -> dict[str, str]:
        answer = next(answers, {"primary": "b"})
        if isinstance(answer, Exception):
            raise answer
        return answer

    with observer(observe) as events:
        time.sleep(0.9)
    assert [what for _, what in events] == ["observer: refused", "primary: b"]


def test_log_records_become_events_on_the_monotonic_clock() -> None:
    lines = "\n".join(
        [
            json.dumps({"ts": "2026-01-01T00:00:05Z", "msg": "Failing over"}),
            json.dumps(
                {
                    "ts": "2026-01-01T00:00:09Z",
                    "record": {
                        "log_time": "2026-01-01 00:00:07.250 UTC",
                        "message": "received promote request",
                    },
                }
            ),
            json.dumps({"ts": "2026-01-01T00:00:08Z", "msg": "unrelated"}),
            "not json",
            '"a string"',
        ]
    )
    start = 1767225600.0  # 2026-01-01T00:00:00Z
    assert log_times(lines, ("Failing", "promote"), 100.0 - start) == [
        (105.0, "Failing over"),
        (107.25, "received promote request"),
    ]


# -- the command ---------------------------------------------------------------------------------


def test_without_a_name_the_drills_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert drill.run("nobody", [], None) == 0
    shown = capsys.readouterr().out
    for name in (
        *drill.OWN,
        drill.IMAGES,
        "kafka-broker",
        "postgres-primary",
        "postgres-paused",
        "api-server",
        "kubelet",
        "mosquitto",
        "mongodb",
    ):
        assert name in shown


def test_all_means_every_drill_once() -> None:
    assert [one.id for one in drill.choose(["all", "kubelet"])] == list(drill.DRILLS)


def test_a_drill_without_its_profile_is_refused_or_left_out(folders: Folders) -> None:
    made = Rehearsal("one")
    made.prepare("node", "", None)
    others = [one.id for one in drill._present(drill.choose(["all"]), made, ["all"])]
    assert others and "mongodb" not in others
    with pytest.raises(UsageError, match=r"mongodb.*up --name one --profile lake"):
        drill._present(drill.choose(["mongodb"]), made, ["mongodb"])
    made.add_profiles(["lake"])
    assert drill._present(drill.choose(["mongodb"]), made, ["mongodb"])


def test_connections_of_clients_are_counted_in_the_kernels_table() -> None:
    table = """  sl  local_address rem_address   st tx_queue
   0: 00000000:6989 00000000:0000 0A 00000000:00000000
   1: 1402F40A:6989 0102F40A:C5AE 01 00000000:00000000
   2: 1402F40A:9C40 0102F40A:6989 01 00000000:00000000
   3: 1402F40A:6989 0102F40A:C5AF 06 00000000:00000000
"""
    assert mongodb.sessions([table, table]) == 2


def test_an_unknown_drill_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"kafka-brokers.*choose from: kafka-broker"):
        drill.choose(["kafka-brokers"])


def test_a_drill_that_runs_alone_says_so_beside_others() -> None:
    for name in ("images", "restore", "rounds"):
        with pytest.raises(UsageError, match=f"drill: {name}; it runs alone"):
            drill.choose([name, "ceph-osd"])


@pytest.mark.parametrize("which", [[], ["ceph-osd"], ["all"], ["restore"]])
def test_options_of_other_drills_are_refused(which: list[str]) -> None:
    takers = "only the drills interruptions, rounds, images take it"
    with pytest.raises(UsageError, match=f"--count: 3; .*{takers}"):
        drill.run("nobody", which, None, 3)
    with pytest.raises(UsageError, match=f"--seed: 0; .*{takers}"):
        drill.run("nobody", which, None, None, 0)


@pytest.mark.parametrize("command", [drill.run, lambda name, _, out: bench.run(name, out)])
def test_simulated_nodes_and_bad_files_are_refused(
    command: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(command)
    monkeypatch.setenv("ESTATE_STATE", str(tmp_path))
    rehearsal = Rehearsal("sim")
    with pytest.raises(EstateError, match="does not exist"):
        command("sim", ["kubelet"], None)
    rehearsal.prepare("simulated", "no root", None)
    with pytest.raises(EstateError, match="real node"):
        command("sim", ["kubelet"], None)
    assert rehearsal.record is not None
    rehearsal.record.mode = "node"
    rehearsal._save()
    with pytest.raises(UsageError, match="--out"):
        command("sim", ["kubelet"], tmp_path / "nowhere" / "file.json")


def outcome(**changes: object) -> Result:
    written = Written("kafka", 100, 0, math.inf, {}, [])
    fields: dict[str, object] = {
        "drill": "kafka-broker",
        "title": "t",
        "broke": "b",
        "acknowledged": 100,
        "lost": 0,
        "outage_s": math.inf,
        "recovery_s": None,
        "repair": "by itself",
        "target_s": 12.0,
        "met": False,
        "green": True,
        "load_1min": 0.5,
        "writers": [written],
        "timeline": [(0.5, "x")],
    }
    return Result(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_file_is_json_with_commit_and_machine(tmp_path: Path) -> None:
    out = tmp_path / "drill.json"
    results = [outcome()]
    provenance.write(out, "drill", drills=[one.json_object() for one in results])
    found = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert set(found) >= {"kind", "at", "commit", "dirty", "machine", "drills"}
    assert found["machine"]["cpus"] == os.cpu_count()
    assert found["drills"][0]["outage_s"] is None
    assert found["drills"][0]["writers"][0]["writer"] == "kafka"


def test_the_commit_is_gits_and_changes_make_it_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    monkeypatch.setattr("rehearsal.paths.root", lambda: tmp_path)
    git("init", "-q")
    assert provenance.facts()["commit"] is None
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    assert provenance.facts()["commit"] == git("rev-parse", "HEAD")
    assert provenance.facts()["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert provenance.facts()["dirty"] is True


def test_a_bench_table_has_ratios() -> None:
    figures = {
        "kafka": {
            "message_bytes": 1024,
            "produce_acks_all_per_s": 9000.0,
            "produce_acks_1_per_s": 12000.0,
            "produce_acks_all_to_1": 0.75,
            "consume_per_s": 40000.0,
        },
        "postgres": {
            "direct_p50_ms": 2.0,
            "direct_p99_ms": 9.0,
            "pool_p50_ms": 3.0,
            "pool_p99_ms": 11.0,
            "pool_to_direct_p50": 1.5,
            "connect_direct_ms": 8.0,
            "connect_pool_ms": 12.0,
        },
        "mosquitto": {"payload_bytes": 200, "publish_qos1_tls_per_s": 5000.0},
        "second_up": {"seconds": 9.5},
    }
    shown = dict(bench.rows(figures))
    assert shown["acks=all against acks=1"] == "x 0.75"
    assert shown["Pgpool against direct, p50"] == "x 1.50"
    assert shown["second `up`"] == "9.5 s"
    bench.judge(figures)
    assert bench.targets(figures) == []


def test_image_transfer_is_judged_by_what_is_wanted() -> None:
    figures: dict[str, Any] = {
        "transfer": {"large": {"tusd_to_put": 0.8}, "small": {"tusd_to_put": 0.65}}
    }
    bench.judge(figures)
    assert figures["transfer"]["large"] == {"tusd_to_put": 0.8, "wanted": 0.8, "met": True}
    assert figures["transfer"]["small"]["met"] is False
    assert bench.targets(figures) == [
        "50 MB files: x 0.80 of a plain put's, x 0.8 wanted: met",
        "200 KB images, 64 connections: x 0.65 of a plain put's, x 0.8 wanted: missed by 0.150",
    ]


@pytest.mark.parametrize("count", [0, 1001])
def test_a_drill_of_no_rounds_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="--count"):
        drill.run("nobody", ["rounds"], None, count, 1)


def test_a_second_drill_on_the_rehearsal_it_makes_is_refused(folders: Folders) -> None:
    folders.state.mkdir(mode=0o700)
    folder = os.open(folders.state, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(EstateError, match="rehearsal interruptions: another drill is at it"):
            drill.run("local", ["interruptions"], None, 1, 1)
    finally:
        os.close(folder)


# -- before a measurement ------------------------------------------------------------------------


def state(one: Rehearsal, monkeypatch: pytest.MonkeyPatch, *rows: Row) -> None:
    """What the checks of a rehearsal say."""
    one.prepare("node", "", None)
    (one.folder / "logs").mkdir(exist_ok=True)
    monkeypatch.setattr(harness, "Pulumi", lambda _: SimpleNamespace(state=lambda: None))
    monkeypatch.setattr(verify, "watched", lambda *_: list(rows))


def test_a_measurement_begins_on_what_is_green(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    state(
        Rehearsal("one"), monkeypatch, Row("a.b", "t", "passed", ""), Row("c", "t", "skipped", "")
    )
    harness.need_green(Rehearsal("one"))
    assert harness.is_green(Rehearsal("one"))


def test_what_is_not_green_names_its_red_checks(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    red = [Row(f"kafka.{number}", "t", "failed", "no broker " * 20) for number in range(5)]
    state(Rehearsal("one"), monkeypatch, Row("a.b", "t", "passed", "good"), *red)
    with pytest.raises(EstateError) as found:
        harness.need_green(Rehearsal("one"))
    words = str(found.value)
    assert words.startswith("rehearsal one: is not green: kafka.0: no broker no broker")
    assert "kafka.2: " in words and "kafka.3" not in words and "a.b" not in words
    assert words.endswith("; and 2 more; run ./estate up --name one first") and len(words) < 520
    assert not harness.is_green(Rehearsal("one"))


def test_checks_that_cannot_be_asked_are_named_too(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> list[Row]:
        raise EstateError("verify", "its tests do not end", "see the log")

    state(Rehearsal("one"), monkeypatch)
    monkeypatch.setattr(verify, "watched", fails)
    with pytest.raises(EstateError, match="is not green: verify: its tests do not end"):
        harness.need_green(Rehearsal("one"))
