"""What is read from Pulumi's state and records, without running it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from rehearsal.processes import wait_for
from rehearsal.pulumi import Pulumi, State, _owner
from rehearsal.rehearsal import Rehearsal
from tests.unit.rehearsal.conftest import Folders

MARK = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}


@pytest.fixture
def history(folders: Folders) -> Path:
    folder = folders.state / "one" / "pulumi" / "state" / ".pulumi" / "history" / "estate" / "local"
    folder.mkdir(parents=True)
    return folder


def record(history: Path, number: int, **changes: Any) -> None:
    body = {"kind": "update", "result": "succeeded", "resourceChanges": {"same": 3}, **changes}
    (history / f"local-{number}.history.json").write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("changes", "unchanged"),
    [
        ({}, True),
        ({"resourceChanges": {"same": 3, "read": 1}}, True),
        ({"resourceChanges": {"same": 3, "update": 1}}, False),
        ({"result": "failed"}, False),
        ({"resourceChanges": None}, False),
    ],
)
def test_the_newest_record_says_whether_anything_changed(
    folders: Folders, history: Path, changes: dict[str, Any], unchanged: bool
) -> None:
    pulumi = Pulumi(Rehearsal("one"))
    assert not pulumi.unchanged(), "no record says nothing"
    record(history, 1, resourceChanges={"create": 3} if unchanged else {"same": 3})
    record(history, 2, **changes)
    assert pulumi.unchanged() is unchanged


def test_outputs_come_without_the_wrapping_of_secrets_and_resources_are_not_shown() -> None:
    text = {**MARK, "plaintext": json.dumps("hidden")}
    stack = {"type": "pulumi:pulumi:Stack", "outputs": {"links": {"page": "https://x"}, "p": text}}
    state = State([{"type": "kubernetes:core/v1:Pod"}, stack])
    assert state.outputs == {"links": {"page": "https://x"}, "p": "hidden"}
    assert "hidden" not in repr(state)
    assert State([]).outputs == {}


def test_a_killed_owner_of_a_lock_that_nobody_waits_for_runs_no_more(tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    binary = tmp_path / "pulumi"
    binary.symlink_to("/bin/sleep")
    with subprocess.Popen([str(binary), "60"]) as process:
        lock.write_text(json.dumps({"pid": process.pid}))
        owner = _owner(lock)
        assert owner is not None and owner.pid == process.pid
        process.kill()
        assert wait_for(lambda: owner.status() == psutil.STATUS_ZOMBIE, 10)
        assert _owner(lock) is None
