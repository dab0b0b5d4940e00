"""The service as its pod runs it: metrics over TLS, runs in processes of their own, the check."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from rehearsal import paths
from services.annotation import serve
from services.annotation.__main__ import main
from tests.annotation.conftest import COUNT, World
from tests.state.probes import Result, run_check
from tests.unit.rehearsal.authority import authority

SEEDED = """
import sys, botocore.session
from moto import mock_aws
from services.annotation.__main__ import main
from tests.annotation.conftest import COUNT, stored
with mock_aws():
    s3 = botocore.session.Session().create_client(
        "s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s")
    for bucket in ("images", "datasets"):
        s3.create_bucket(Bucket=bucket)
    stored(s3, COUNT)
    sys.exit(main(["run"], s3=s3))
"""
"""A run against the same version as the test's, in a store of its own: moto's is the process's."""
SERVE = f"""
import sys
from services.annotation.serve import serve
from services.annotation.settings import load
serve(load().serve, [sys.executable, "-c", {SEEDED!r}])
"""


@contextmanager
def served(world: World, tmp_path: Path, every_s: int = 600) -> Iterator[dict[str, Any]]:
    """The service, and the check of it."""
    authority(tmp_path, "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"certificate": str(tmp_path / "ca.crt"), "key": str(tmp_path / "ca.key")}
    world.change(serve={**told, "port": port, "every_s": every_s, "longest_s": 60})
    child = subprocess.Popen([sys.executable, "-c", SERVE], cwd=paths.root())
    try:
        yield {
            "id": "annotation.run",
            "probe": "annotation_run",
            "args": {
                "url": f"https://127.0.0.1:{port}/metrics",
                "ca": {"namespace": "datalake", "secret": "annotation-tls", "key": "ca.crt"},
                "silence_s": 900,
            },
        }
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()


def asked(check: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """The check's answer as soon as a run has ended."""
    ca = (tmp_path / "ca.crt").read_bytes()
    monkeypatch.setattr("tests.state.probes.ProbeContext.secret", lambda *_: ca)
    early = ("no run has ended yet", "ConnectionError")
    deadline = time.monotonic() + 90
    while True:
        found = run_check(check, tmp_path, cast(Any, object()))
        if not any(words in found.detail for words in early) or time.monotonic() > deadline:
            return found
        assert not found.ok
        time.sleep(0.3)


def test_the_check_is_green_after_a_run_that_did_all(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(world, tmp_path) as check:
        found = asked(check, tmp_path, monkeypatch)
        assert found.ok and found.detail.startswith("1 runs"), found
    assert len(world.double.images) == COUNT


def test_the_check_is_red_where_no_server_answers(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.change("server", url="https://127.0.0.1:9", attempts=1)
    with served(world, tmp_path) as check:
        found = asked(check, tmp_path, monkeypatch)
    assert not found.ok
    assert "could not do: send of roads-" in found.detail


def test_the_check_is_red_where_the_token_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.token.write_text("another")
    with served(world, tmp_path) as check:
        assert "could not do" in asked(check, tmp_path, monkeypatch).detail


def test_the_certificate_that_is_there_now_is_served(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.change(versions=[])
    with served(world, tmp_path, every_s=1) as check:
        assert asked(check, tmp_path, monkeypatch).ok
        authority(tmp_path, "127.0.0.1")
        deadline = time.monotonic() + 60
        while not (found := asked(check, tmp_path, monkeypatch)).ok:
            assert "CERTIFICATE_VERIFY_FAILED" in found.detail or "SSLError" in found.detail
            assert time.monotonic() < deadline, found.detail
            time.sleep(0.3)


def test_an_end_of_the_service_ends_its_run(world: World, tmp_path: Path) -> None:
    began = tmp_path / "began"

    def hold() -> None:
        began.touch()
        time.sleep(3)

    world.double.on["teams.list"] = hold
    with served(world, tmp_path):
        for _ in range(600):
            if began.exists():
                break
            time.sleep(0.1)
        before = time.monotonic()
    assert began.exists()
    assert time.monotonic() - before < 3, "it waited for the run"


def test_without_settings_of_its_own_it_says_what_is_missing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve"]) == 1
    assert "serve: not set; say port, certificate" in capsys.readouterr().err


# -- runs ------------------------------------------------------------------------------------------


def sample(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_what_a_run_prints_is_kept_and_a_failed_step_keeps_its_numbers() -> None:
    digest = "ab" * 32
    done = {
        "name": "kept",
        "digest": digest,
        "send": {"images": 3},
        "fetch": {"images": 2, "unfinished": 1},
        "reconcile": {"name": "kept", "unknown_here": ["a", "b"], "equal": False},
    }
    serve.once(60, script(f"print({json.dumps(done)!r}.join('[]'))"))
    of = {"dataset": f"kept-{digest[:16]}"}
    assert sample("annotation_images", **of, state="finished") == 2
    assert sample("annotation_differences", **of, kind="unknown_here") == 2
    assert sample("annotation_run_failed") == 0
    failed = {**done, "fetch": {"failed": "x"}, "reconcile": {"failed": "x"}}
    serve.once(60, script(f"print({json.dumps(failed)!r}.join('[]')); exit(1)"))
    assert sample("annotation_failed", **of, step="fetch") == 1
    assert sample("annotation_failed", **of, step="send") == 0
    assert sample("annotation_images", **of, state="finished") == 2
    assert sample("annotation_run_failed") == 1


@pytest.mark.parametrize("text", ["exit(1)", "print('[')", "exit(0)"])
def test_a_run_that_prints_nothing_whole_has_failed(text: str) -> None:
    before = sample("annotation_runs_total", result="failed") or 0
    serve.once(60, script(text))
    assert sample("annotation_runs_total", result="failed") == before + 1
    assert sample("annotation_run_failed") == 1


def test_a_run_that_hangs_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    text = (
        "import os, subprocess, tempfile, time; from pathlib import Path\n"
        "left = tempfile.mkdtemp(); child = subprocess.Popen(['sleep', '60'])\n"
        f"Path({str(file)!r}).write_text(f'{{child.pid}} {{left}}'); time.sleep(60)"
    )
    before = time.monotonic()
    serve.once(3, script(text))
    assert time.monotonic() - before < 10
    assert sample("annotation_runs_total", result="stopped") == 1
    pid, left = file.read_text().split()
    assert not Path(left).exists()
    for _ in range(50):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        os.kill(int(pid), signal.SIGKILL)
        pytest.fail("what the run started goes on")
