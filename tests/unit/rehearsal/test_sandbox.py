"""The namespaces of a rehearsal: made, left without a trace, gone with their PID 1."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rehearsal import paths, sandbox
from rehearsal.errors import EstateError
from rehearsal.processes import Daemon, wait_for
from rehearsal.sandbox import Direct, Sandbox
from tests.state import snapshot
from tests.unit.rehearsal.conftest import Folders

# Of the real cache: a test's own is empty.
DEBIAN = paths.cache() / "debian"


def lacking() -> str:
    """Why no sandbox can be made here, or nothing."""
    if os.geteuid() != 0:
        return "needs root: it makes namespaces and mounts"
    for command in ("catatonit", "ip"):
        try:
            sandbox.tool(DEBIAN, command)
        except EstateError:
            return f"needs {command}: ./estate up unpacks it into the cache"
    done = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return "needs the right to make namespaces" if done.returncode else ""


@pytest.fixture
def folder(folders: Folders) -> Path:
    """The state folder; ESTATE_STATE marks its processes."""
    return folders.state / "test-box"


@pytest.fixture
def box(folder: Path) -> Iterator[Sandbox]:
    if why := lacking():
        pytest.skip(why)
    made = Sandbox("test-box", folder, DEBIAN)
    yield made
    made.destroy()


def host(mark: Path) -> snapshot.Snapshot:
    """What a sandbox could change on its host, and other programs here do not."""
    return {
        "mounts": snapshot._mounts(),
        "interfaces": {entry.name for entry in Path("/sys/class/net").iterdir()},
        "sysctls": snapshot._sysctls(),
        "loop devices": snapshot._loops(),
        "processes": snapshot._processes(str(mark.parent)),
    }


def test_it_leaves_no_trace_on_the_host_and_its_end_takes_everything(
    box: Sandbox, folder: Path
) -> None:
    before = host(folder)
    assert box.create(), "there was none"
    assert not box.create(), "a second one finds it"

    # Something of every kind, inside.
    box.run(["sh", "-c", "mkdir /run/there && mount -t tmpfs tmpfs /run/there"])
    box.run([sandbox.tool(DEBIAN, "ip"), "link", "add", "one", "type", "veth", "peer", "two"])
    work = Daemon(folder, "work")
    process = work.start([*box.prefix(), "sleep", "60"])
    assert wait_for(lambda: len(process.children()) == 1, 5)
    inside = process.children()[0]

    # While it lives, the host sees its processes and nothing else of it.
    during = host(folder)
    assert during["processes"] > before["processes"]
    assert snapshot.differences(before, {**during, "processes": before["processes"]}) == []
    assert not Path("/run/there").exists()

    init = box.init
    assert init is not None
    os.kill(init, signal.SIGKILL)
    assert wait_for(lambda: not inside.is_running(), 5), "the kernel ends what is inside"
    assert wait_for(lambda: not box.alive, 5)
    box.destroy()
    work.stop()
    assert snapshot.differences(before, host(folder)) == []


def test_inside_it_is_a_machine_of_its_own(box: Sandbox, folder: Path) -> None:
    box.create()
    said = box.run(["sh", "-c", "hostname; cat /etc/resolv.conf; cat /proc/1/comm"]).stdout.split(
        "\n"
    )
    assert said[0] == "test-box" != socket.gethostname()
    assert f"nameserver {sandbox.DNS_SERVICE_IP}" in said
    assert said[-2] == "catatonit"
    ip = sandbox.tool(DEBIAN, "ip")
    assert f"inet {sandbox.NODE_IP}/32" in box.run([ip, "address", "show", "lo"]).stdout
    assert sandbox.SERVICE_CIDR in box.run([ip, "route"]).stdout
    # Nothing leads outside.
    assert "default" not in box.run([ip, "route"]).stdout
    # What the kubelet wants of the kernel it reads; the host keeps its own.
    tunables = box.run(["cat", "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/panic"]).stdout
    assert tunables.split() == ["1", "10"]
    # The state folder is reached under its own path, the host's /var/lib only read.
    (folder / "seen").write_text("yes")
    assert box.run(["cat", str(folder / "seen")]).stdout == "yes"
    box.run(["touch", "/var/lib/of-the-sandbox", "/run/of-the-sandbox"])
    assert not Path("/var/lib/of-the-sandbox").exists()
    assert not Path("/run/of-the-sandbox").exists()


def test_a_command_inside_answers_or_fails_with_its_last_line(box: Sandbox) -> None:
    box.create()
    assert box.run(["sh", "-c", "echo $A"], env={"A": "given"}).stdout == "given\n"
    assert box.run(["false"], check=False).returncode == 1
    with pytest.raises(EstateError, match=r"^sh: the last line; see ") as caught:
        box.run(["sh", "-c", "echo first >&2; echo the last line >&2; exit 3"])
    assert "logs" in caught.value.way_out


def test_a_holder_killed_by_hand_is_made_again(box: Sandbox) -> None:
    box.create()
    first = box.init
    assert first is not None
    holder = psutil.Process(first).parent()
    assert holder is not None
    holder.kill()
    assert wait_for(lambda: not psutil.pid_exists(first), 5), "--kill-child takes PID 1 with it"
    assert not box.alive
    with pytest.raises(
        EstateError, match=r"rehearsal test-box: its sandbox is gone; run: \./estate up"
    ):
        box.run(["true"])
    assert box.create() and box.init != first


def test_without_a_sandbox_there_is_nothing_to_run_in(folder: Path) -> None:
    gone = Sandbox("gone", folder, DEBIAN)
    assert gone.init is None and not gone.alive
    with pytest.raises(EstateError, match=r"its sandbox is gone"):
        gone.prefix()
    gone.destroy()  # at any stage of its life


def test_without_namespaces_commands_run_on_the_host(folder: Path) -> None:
    direct = Direct("plain", folder)
    assert direct.alive and direct.prefix() == []
    assert not direct.create() and folder.is_dir()
    assert direct.run(["echo", "here"]).stdout == "here\n"
    with pytest.raises(EstateError, match=r"^sh: no output; see "):
        direct.run(["sh", "-c", "exit 1"])
    direct.destroy()


def test_a_command_comes_from_the_cache_first_then_from_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sandbox.tool(tmp_path, "sh") == shutil.which("sh")
    own = tmp_path / "usr" / "sbin" / "sh"
    own.parent.mkdir(parents=True)
    own.touch()
    assert sandbox.tool(tmp_path, "sh") == str(own)
    with pytest.raises(EstateError, match=r"command nowhere: not found; install it"):
        sandbox.tool(tmp_path, "nowhere")
