from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rehearsal import demo, demo_clients, series
from rehearsal.access import Access
from rehearsal.demo_data import Account, Key, Sample, account, rows
from rehearsal.errors import EstateError
from rehearsal.rehearsal import Rehearsal

ROOT = Path(__file__).resolve().parents[3]


def sample(device: str = "buoy-1", sequence: int = 0, celsius: float = 23.11) -> Sample:
    return Sample("run", device, sequence, "1950-01", celsius, 1_700_000_000_000_000_000)


def result(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "sent": 3,
        "acknowledged": 3,
        "stored": 3,
        "duplicates": 0,
        "missing": [],
        "altered": [],
        "seconds": 1.5,
        "times": [[0.001, 0.007, 0.002]] * 3,
        "failures": [],
    }
    return {**base, **changes}


# -- the series ----------------------------------------------------------------------------------


def test_the_series_is_the_published_one() -> None:
    readings = series.el_nino()
    assert len(readings) == 61 * 12
    assert readings[0] == series.Reading("1950-01", 23.11)
    assert readings[-1] == series.Reading("2010-12", 22.07)
    assert all(15 < reading.celsius < 35 for reading in readings)


def test_the_series_is_read_without_importing_statsmodels() -> None:
    code = "import sys; from rehearsal import series; series.el_nino(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"statsmodels", "scipy", "pandas", "numpy"} & set(done.stdout.split())


def test_every_device_begins_elsewhere_and_goes_round() -> None:
    readings = series.el_nino()
    first = [series.reading(readings, device, 6, 0).month for device in range(6)]
    assert first == ["1950-01", "1960-03", "1970-05", "1980-07", "1990-09", "2000-11"]
    assert series.reading(readings, 0, 6, 732) == readings[0]


# -- the message ---------------------------------------------------------------------------------


def test_a_sample_survives_the_wire() -> None:
    assert Sample.parse(sample().payload(), "buoy-1") == sample()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not json",
        b"[1]",
        b'{"run": "r"}',
        json.dumps({**sample().__dict__, "more": 1}).encode(),
        json.dumps({**sample().__dict__, "sequence": "1"}).encode(),
        json.dumps({**sample().__dict__, "sequence": True}).encode(),
        json.dumps({**sample().__dict__, "celsius": "warm"}).encode(),
        json.dumps({**sample().__dict__, "device": "buoy-2"}).encode(),
    ],
)
def test_what_is_no_sample_is_refused(payload: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        Sample.parse(payload, "buoy-1")


def test_a_key_occurs_once_in_a_batch_with_its_deliveries() -> None:
    found = rows([sample(sequence=1), sample(sequence=2), sample(sequence=1)])
    assert [(row[1], row[2], row[-1]) for row in found] == [("buoy-1", 1, 2), ("buoy-1", 2, 1)]


# -- the account ---------------------------------------------------------------------------------

SENT: dict[Key, Sample] = {("buoy-1", 0): sample(), ("buoy-1", 1): sample(sequence=1)}


def test_all_stored_once_is_a_clean_account() -> None:
    stored = dict.fromkeys(SENT, (23.11, 1))
    assert account(SENT, stored) == Account(stored=2, duplicates=0)


def test_a_missing_message_is_named() -> None:
    assert account(SENT, {("buoy-1", 0): (23.11, 1)}).missing == [("buoy-1", 1)]


def test_a_message_delivered_three_times_is_two_duplicates() -> None:
    stored = {("buoy-1", 0): (23.11, 3), ("buoy-1", 1): (23.11, 1)}
    assert account(SENT, stored) == Account(stored=2, duplicates=2)


def test_another_value_or_a_row_nobody_sent_is_altered() -> None:
    stored = {("buoy-1", 0): (23.12, 1), ("buoy-1", 1): (23.11, 1), ("buoy-9", 0): (1.0, 1)}
    assert account(SENT, stored).altered == [("buoy-1", 0), ("buoy-9", 0)]


# -- what is printed -----------------------------------------------------------------------------


def test_a_complete_run_succeeds() -> None:
    assert demo.verdict(result(), 3) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"stored": 2, "missing": [["buoy-3", 7]]},
        {"altered": [["buoy-3", 7]]},
        {"sent": 2, "stored": 2},
    ],
)
def test_an_incomplete_run_fails(
    changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.verdict(result(**changes), 3) == 1
    if "sent" not in changes:
        assert "(buoy-3, 7)" in capsys.readouterr().err


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert demo.percentile(values, 50) == 50.0
    assert demo.percentile(values, 99) == 99.0
    assert demo.percentile([7.0], 99) == 7.0
    assert math.isnan(demo.percentile([], 50))


def test_the_parts_sum_up_to_the_whole() -> None:
    shares = [row["share"] for row in demo.breakdown(result()["times"])]
    assert shares == ["10 %", "70 %", "20 %"]
    assert dict(demo.figures(result()))["latency p50, publish to committed row"] == "10.0 ms"


def test_simulated_nodes_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTATE_STATE", str(tmp_path))
    Rehearsal("sim").prepare("simulated", "no root", None)
    with pytest.raises(EstateError, match="real node"):
        demo.run("sim", 10, 10.0)


# -- access --------------------------------------------------------------------------------------

ACCESS = Access(
    ca="PEM",
    mqtt_passwords={"device": "m-secret"},
    kafka_passwords={"bridge": "k-secret"},
    postgres_user="estate",
    postgres_password="p'g secret",
    database="estate",
)


def test_access_goes_through_a_pipe_and_shows_no_secret() -> None:
    assert Access.from_json(ACCESS.to_json()) == ACCESS
    assert "\n" not in ACCESS.to_json()
    assert "secret" not in repr(ACCESS)


def test_kafka_options_have_librdkafkas_names() -> None:
    options = ACCESS.kafka_options("bridge", group_id="g", error_cb=print)
    assert options["group.id"] == "g"
    assert options["error_cb"] is print
    assert options["security.protocol"] == "SASL_SSL"
    assert options["sasl.password"] == "k-secret"


def test_the_database_is_reached_through_the_pool_with_a_verified_certificate(
    tmp_path: Path,
) -> None:
    dsn = ACCESS.dsn(tmp_path)
    assert "host=pgpool.datalake.svc.cluster.local" in dsn
    assert "sslmode=verify-full" in dsn
    assert (tmp_path / "ca.crt").read_text() == "PEM"
    assert "host=postgres-rw.datalake.svc.cluster.local" in ACCESS.dsn(tmp_path, direct=True)


def test_the_upsert_counts_deliveries() -> None:
    assert "ON CONFLICT (run, device, sequence)" in demo_clients._UPSERT
