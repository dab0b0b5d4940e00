"""Daemons: started detached, found again, never mistaken for another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rehearsal import paths
from rehearsal.processes import Daemon, alive, wait_for


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path, "one")
    yield made
    made.stop(grace=0.2)


def record(daemon: Daemon, folder: Path) -> Path:
    return folder / "pids" / f"{daemon.name}.json"


def test_it_starts_once_in_a_session_of_its_own(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon.process() is None
    first = daemon.start(["sleep", "60"])
    assert daemon.start(["sleep", "60"]).pid == first.pid
    assert os.getsid(first.pid) == first.pid
    assert daemon.known
    # Another command of the user finds it by its record alone.
    found = Daemon(tmp_path, "one").process()
    assert found is not None and found.pid == first.pid
    assert json.loads(record(daemon, tmp_path).read_text())["pid"] == first.pid


def test_its_output_is_appended_to_its_log(daemon: Daemon) -> None:
    for word in ("first", "second"):
        process = daemon.start(["sh", "-c", f"echo {word}; echo to stderr >&2"])
        psutil.wait_procs([process], timeout=5)
    assert daemon.log.read_text().split("\n")[::2] == ["first", "second", ""]
    assert daemon.last_words(2) == "second | to stderr"


def test_it_gets_the_environment_and_the_descriptors_it_is_given(
    daemon: Daemon, tmp_path: Path
) -> None:
    with (tmp_path / "given").open("w") as given:
        process = daemon.start(
            ["sh", "-c", f'echo "$A $HOME $PWD" > /dev/fd/{given.fileno()}'],
            env={"A": "a", "PATH": os.environ["PATH"]},
            pass_fds=[given.fileno()],
        )
        psutil.wait_procs([process], timeout=5)
    assert (tmp_path / "given").read_text() == "a  /\n"


def test_stop_ends_it_and_its_children_and_forgets_it(daemon: Daemon, tmp_path: Path) -> None:
    process = daemon.start(["sh", "-c", "sleep 60 & sleep 60"])
    assert wait_for(lambda: len(process.children()) == 2, 5)
    family = [process, *process.children()]
    daemon.stop()
    assert not any(map(alive, family))
    assert not daemon.known and daemon.process() is None
    daemon.stop()  # nothing to do is no error


def test_what_ignores_sigterm_is_killed_after_the_grace(daemon: Daemon) -> None:
    process = daemon.start(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
    assert wait_for(lambda: "ready" in daemon.last_words(), 5)
    began = time.monotonic()
    daemon.stop(grace=0.3)
    assert 0.25 < time.monotonic() - began < 2.5
    assert not process.is_running()


def test_kill_9_is_seen_and_start_starts_it_again(daemon: Daemon) -> None:
    first = daemon.start(["sleep", "60"])
    os.kill(first.pid, signal.SIGKILL)
    assert wait_for(lambda: daemon.process() is None, 5)
    assert daemon.known, "its absence means that it died"
    second = daemon.start(["sleep", "60"])
    assert second.pid != first.pid and second.is_running()


def test_a_process_that_got_the_id_later_is_never_signalled(daemon: Daemon, tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        file = record(daemon, tmp_path)
        file.parent.mkdir()
        started = psutil.Process(stranger.pid).create_time() - 100
        file.write_text(json.dumps({"pid": stranger.pid, "started": started}))
        assert daemon.process() is None
        daemon.stop()
        assert stranger.poll() is None
        assert not file.exists()
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "{", "{}", '{"pid": 999999999, "started": 1.0}'])
def test_a_record_cut_short_counts_as_no_process(
    daemon: Daemon, tmp_path: Path, content: str
) -> None:
    file = record(daemon, tmp_path)
    file.parent.mkdir()
    file.write_text(content)
    assert daemon.process() is None


def test_a_command_that_is_not_there_leaves_no_record(daemon: Daemon) -> None:
    with pytest.raises(FileNotFoundError):
        daemon.start(["no-such-command-at-all"])
    assert not daemon.known


def test_wait_for_asks_until_yes_or_the_end() -> None:
    answers = iter([False, False, True])
    assert wait_for(lambda: next(answers), 5, 0.01)
    began = time.monotonic()
    assert not wait_for(lambda: False, 0.1, 0.02)
    assert 0.1 <= time.monotonic() - began < 1


def test_an_interrupt_ends_what_a_command_started_too(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        "import signal; from rehearsal.processes import run_group\n"
        # A shell's background job ignores it, and so would this child.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"run_group(['sh', '-c', 'sleep 60 & echo $! > {note}.part; mv {note}.part {note}; wait'])"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=paths.root(), stderr=subprocess.PIPE) as running:
        assert wait_for(note.exists, 10)
        running.send_signal(signal.SIGINT)
        assert running.wait(10) != 0
    child = int(note.read_text())
    assert wait_for(lambda: not psutil.pid_exists(child) or _zombie(child), 5)


def _zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
