"""What a user without root gets: a rehearsal whose nodes are all simulated, and which says so.

Run by root, the user is one of a user namespace that owns the same files and has no rights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.state import snapshot
from tests.state.estate import Estate

USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000") if os.geteuid() == 0 else ()


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    done = subprocess.run([*USER, "id", "-u"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no user without root here: {done.stderr.strip()}")
    assert int(done.stdout) != 0
    state = Path(tempfile.mkdtemp(prefix="estate-"))
    made = Estate(state, "plain", snapshot.take(str(state)), USER)
    try:
        yield made
    finally:
        made.start("down").communicate(timeout=120)
        shutil.rmtree(state, ignore_errors=True)


def test_up_says_what_is_simulated_and_why_and_ends_green(estate: Estate) -> None:
    done = estate("up")
    assert "all nodes are simulated" in done.stderr and "not root" in done.stderr
    rows = estate.rows()
    states = {row["state"] for row in rows}
    assert states == {"passed", "skipped"}
    passed = [row["id"] for row in rows if row["state"] == "passed"]
    assert {"estate.as-declared", "simulated.nodes", "simulated.claims"} <= set(passed)
    assert len(passed) >= 10
    assert all("no container runs here" in r["detail"] for r in rows if r["state"] == "skipped")


def test_second_up_changes_nothing(estate: Estate) -> None:
    done = estate("up")
    assert "unchanged" in done.stdout + done.stderr


def test_pods_are_scheduled_on_simulated_nodes(estate: Estate) -> None:
    pods = json.loads(estate.kubectl("get", "pods", "-n", "realtime", "-o", "json"))["items"]
    assert pods and all(pod["spec"].get("nodeName") for pod in pods)


def test_proofs_are_refused_with_the_reason(estate: Estate) -> None:
    done = estate("verify", "--prove", code=1)
    assert "no node of plain is real" in done.stderr


def test_down_leaves_nothing_behind(estate: Estate) -> None:
    estate("down")
    assert snapshot.differences(estate.before, snapshot.take(str(estate.state))) == []
