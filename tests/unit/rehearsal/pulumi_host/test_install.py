from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal.pulumi_host import LAUNCHERS, install


def test_launchers_are_executable_and_repeat_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    install(folder, Path(sys.executable))
    assert sorted(path.name for path in folder.iterdir()) == sorted(LAUNCHERS)
    assert all(os.access(folder / name, os.X_OK) for name in LAUNCHERS)
    before = [(folder / name).read_text() for name in LAUNCHERS]
    install(folder, Path(sys.executable))
    assert [(folder / name).read_text() for name in LAUNCHERS] == before


def test_an_official_host_is_left_alone(tmp_path: Path) -> None:
    official = tmp_path / LAUNCHERS[0]
    official.write_bytes(b"\x7fELF\xff")
    with pytest.raises(FileExistsError, match="is not the estate's"):
        install(tmp_path, Path(sys.executable))
    assert [path.name for path in tmp_path.iterdir()] == [LAUNCHERS[0]]
    assert official.read_bytes() == b"\x7fELF\xff"


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is no file.*virtual environment"):
        install(tmp_path, tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_host_prints_its_port_and_ends_quietly(tmp_path: Path, number: signal.Signals) -> None:
    install(tmp_path, Path(sys.executable))
    host = subprocess.Popen(
        [tmp_path / LAUNCHERS[0], "127.0.0.1:1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={"PATH": os.defpath, "PYTHONPATH": "/nowhere", "PYTHONSTARTUP": "/nowhere"},
    )
    assert host.stdout is not None
    assert 0 < int(host.stdout.readline()) < 65536
    host.send_signal(number)
    rest, errors = host.communicate(timeout=10)
    assert (host.returncode, rest, errors) == (0, "", "")
