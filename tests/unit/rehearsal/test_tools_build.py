"""Builds: with the real Go on tiny modules; with a script in its place where time matters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rehearsal import go, paths, tools
from rehearsal.errors import EstateError
from rehearsal.gobuild import PATCH, copy_patched, reason
from rehearsal.locking import Busy, locked
from rehearsal.tools import BuildFailed
from tests.unit.rehearsal.conftest import Folders

# Compiled packages of Go's own runtime, shared by all runs of these tests.
RUNTIME = paths.cache() / "test-go-build"
GOOD = 'package main\n\nfunc main() { println("it runs") }\n'

GREETER = (
    'package main\n\nimport "example.test/greeting"\n\nfunc main() { println(greeting.Say()) }\n'
)
GREETING = 'package greeting\n\nfunc Say() string { return "hello" }\n'

Event = tuple[str, str, int, int]


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, tool: str, phase: str, done: int, total: int) -> None:
        self.events.append((tool, phase, done, total))

    def phases(self, tool: str) -> list[str]:
        return [phase for name, phase, _, _ in self.events if name == tool]


def toolchain(folder: Path, programs: dict[str, str]) -> Path:
    """A folder like rehearsal/toolchain with one module per program."""
    lines = ['[go]\nminimum = "1.26.4"\n']
    for name, source in programs.items():
        module = folder / "modules" / name
        module.mkdir(parents=True)
        (module / "go.mod").write_text(f"module example.test/{name}\n\ngo 1.26\n")
        (module / "go.sum").write_text("")
        (module / "main.go").write_text(source)
        lines.append(
            f'[tool.{name}]\nmodule = "{name}"\npackage = "."\nversion = "1.0.0"\n'
            'group = "cli"\nmemory_gib = 0.1\n'
        )
    (folder / "tools.toml").write_text("\n".join(lines))
    return folder


def publish(proxy: Path, module: str, source: str) -> None:
    """A folder that is a module proxy with version 1.0.0 of one module."""
    folder = proxy / module / "@v"
    folder.mkdir(parents=True)
    text = f"module {module}\n\ngo 1.26\n"
    (folder / "list").write_text("v1.0.0\n")
    (folder / "v1.0.0.mod").write_text(text)
    (folder / "v1.0.0.info").write_text('{"Version": "v1.0.0"}')
    with zipfile.ZipFile(folder / "v1.0.0.zip", "w") as archive:
        archive.writestr(f"{module}@v1.0.0/go.mod", text)
        archive.writestr(f"{module}@v1.0.0/greeting.go", source)


@pytest.fixture
def real_go(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Folders:
    if go.on_path() is None:
        pytest.skip("PATH has no Go that is new enough; the wheel would be a download")
    RUNTIME.mkdir(parents=True, exist_ok=True)
    (folders.cache / "go").mkdir(parents=True)
    (folders.cache / "go" / "build").symlink_to(RUNTIME)
    monkeypatch.setenv("ESTATE_KEEP_GO_CACHES", "1")
    monkeypatch.setenv("GOPROXY", "off")
    return folders


PATCHED = """module = "example.test/greeting"
[[replace]]
file = "greeting.go"
old = "hello"
new = "well met"
"""


def test_a_module_is_changed_before_the_build_and_its_change_is_part_of_the_key(
    real_go: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "HERE", toolchain(tmp_path / "tc", {"one": GREETER}))
    folder, proxy = tmp_path / "tc" / "modules" / "one", tmp_path / "proxy"
    publish(proxy, "example.test/greeting", GREETING)
    monkeypatch.setenv("GOPROXY", proxy.as_uri())
    monkeypatch.setenv("GONOSUMDB", "example.test")
    requires = "\n\nrequire example.test/greeting v1.0.0\n"
    (folder / "go.mod").write_text("module example.test/one\n\ngo 1.26" + requires)
    command = [str(go.go()[0]), "mod", "tidy"]
    env = {**go.environment(), "GOFLAGS": "-mod=mod"}
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)

    def says() -> str:
        binary = tools.ensure(["one"], Recorder())["one"]
        done = subprocess.run([binary], capture_output=True, text=True, check=True)
        return done.stderr.strip()

    assert says() == "hello"
    (folder / PATCH).write_text(PATCHED)
    assert says() == "well met"


def test_a_change_that_does_not_fit_is_named(tmp_path: Path) -> None:
    module, patch = tmp_path / "module", tmp_path / "set" / PATCH
    for path in (module, patch.parent):
        path.mkdir()
    (module / "greeting.go").write_text("hello hello")
    patch.write_text(PATCHED)
    with pytest.raises(EstateError, match=r"set/patch.toml: its text is 2 times in greeting.go"):
        copy_patched(module, tmp_path / "copy", patch)


def test_a_failed_build_is_named_and_the_rest_is_kept(
    real_go: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = GOOD.replace('"it runs"', "undefinedName")
    monkeypatch.setattr(tools, "HERE", toolchain(tmp_path / "tc", {"bad": bad, "good": GOOD}))
    shown = Recorder()
    with pytest.raises(BuildFailed) as caught:
        tools.ensure(["bad", "good"], shown)
    line = str(caught.value)
    assert line.startswith("build of bad 1.0.0: ./main.go:3:23: undefined: undefinedName; see ")
    assert "build-bad.log" in line and "kept" in line
    assert shown.phases("bad")[-1] == "failed"

    built = tools.find(tools.catalogue()["good"])
    assert built is not None and shown.phases("good")[-1] == "done"
    said = subprocess.run([built], capture_output=True, text=True, check=True).stderr
    assert said == "it runs\n"
    assert not any((real_go.cache / "go" / "work").iterdir())
    assert [path.name for path in (real_go.cache / "tools").glob("bad-*")] == []

    # The next run builds nothing but what failed.
    (tools.HERE / "modules" / "bad" / "main.go").write_text(GOOD)
    again = Recorder()
    assert set(tools.ensure(["bad", "good"], again)) == {"bad", "good"}
    assert again.phases("good") == ["done"]
    assert again.phases("bad")[0] == "download" and again.phases("bad")[-1] == "done"


def test_all_failed_builds_are_named(
    real_go: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"one": "package main\nfunc main() { 1 }\n", "two": "package main\nx\n"}
    monkeypatch.setattr(tools, "HERE", toolchain(tmp_path / "tc", broken))
    with pytest.raises(BuildFailed) as caught:
        tools.ensure(broken, lambda *_: None)
    assert "build of one 1.0.0" in str(caught.value)
    assert "build of two 1.0.0" in str(caught.value)


def test_a_module_without_a_checksum_is_not_built(
    real_go: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = toolchain(tmp_path / "tc", {"good": GOOD})
    with (folder / "modules" / "good" / "go.mod").open("a") as file:
        file.write("\nrequire golang.org/x/mod v0.29.0\n")
    source = 'package main\nimport _ "golang.org/x/mod/semver"\nfunc main() {}\n'
    (folder / "modules" / "good" / "main.go").write_text(source)
    monkeypatch.setattr(tools, "HERE", folder)
    with pytest.raises(BuildFailed, match=r"missing go\.sum entry"):
        tools.ensure(["good"], lambda *_: None)


# -- a script in Go's place ------------------------------------------------------------------------

SLOW = """#!/bin/sh
case "$1" in
  version) echo go version go1.99.0 linux/amd64;;
  list) printf 'a\\nb\\n';;
  build)
    for last; do case "$before" in -o) out=$last;; esac; before=$last; done
    echo build >> "$RECORD"
    echo a >&2
    touch "$GOTMPDIR/half"
    if [ -n "$SLEEP" ]; then sleep "$SLEEP" & echo "$$ $!" > "$PIDS"; wait; fi
    cp "$0" "$out"
  ;;
esac
"""

PROGRAM = """
import sys, json, signal
from pathlib import Path
from rehearsal import tools
from rehearsal.errors import EstateError
tools.HERE = Path(sys.argv[1])
def show(*event):
    sys.stdout.write(json.dumps(event) + chr(10))  # one write: two builds report at once
    sys.stdout.flush()
try:
    tools.ensure(sys.argv[2:], show)
except EstateError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def slow_go(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    command = tmp_path / "bin" / "go"
    command.parent.mkdir()
    command.write_text(SLOW)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    monkeypatch.setenv("SLEEP", "")
    monkeypatch.setenv("PYTHONPATH", str(paths.root()))
    monkeypatch.setenv("ESTATE_KEEP_GO_CACHES", "1")
    monkeypatch.setattr(
        tools, "HERE", toolchain(tmp_path / "tc", dict.fromkeys(("one", "two", "three"), GOOD))
    )
    return folders


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def estate(*names: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, str(tools.HERE), *names],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def until_compiling(process: subprocess.Popen[str], pids: Path) -> list[int]:
    """The ids of the build's processes, once it waits in the middle of its work."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)[1] == "compile":
            break
    deadline = time.monotonic() + 10
    while not (pids.exists() and len(pids.read_text().split()) == 2):
        assert time.monotonic() < deadline, "the build did not start"
        time.sleep(0.02)
    return [int(word) for word in pids.read_text().split()]


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_ctrl_c_ends_the_compilers_starts_no_more_and_leaves_no_half_file(
    slow_go: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: list[subprocess.Popen[str]],
) -> None:
    monkeypatch.setenv("SLEEP", "60")
    process = estate("one", "two", "three")
    children.append(process)
    pids = until_compiling(process, tmp_path / "pids")
    before = (tmp_path / "record").read_text()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert time.monotonic() - began < 8
    assert process.returncode != 0 and "KeyboardInterrupt" in said
    assert all(gone(pid) for pid in pids)
    # At most what ran beside it had begun as well.
    assert (tmp_path / "record").read_text().count("build") <= before.count("build") + 1
    assert not any(path.is_file() for path in (slow_go.cache / "tools").rglob("[!.]*"))
    assert not any((slow_go.cache / "go" / "work").iterdir())

    monkeypatch.setenv("SLEEP", "")
    assert set(tools.ensure(["one", "two", "three"], lambda *_: None)) == {"one", "two", "three"}


def test_after_kill_9_the_orphan_keeps_its_lock_and_the_next_run_sweeps(
    slow_go: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: list[subprocess.Popen[str]],
) -> None:
    monkeypatch.setenv("SLEEP", "60")
    process = estate("one")
    children.append(process)
    pids = until_compiling(process, tmp_path / "pids")
    process.kill()
    process.wait()
    lock = slow_go.cache / "tools" / ".one.lock"
    with pytest.raises(Busy), locked(lock, wait=lambda: False):
        pass
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert (slow_go.cache / "go" / "work" / "one" / "half").exists()

    monkeypatch.setenv("SLEEP", "")
    assert tools.ensure(["one"], lambda *_: None)["one"].exists()
    assert not (slow_go.cache / "go" / "work" / "one").exists()


def test_two_commands_build_a_tool_once(
    slow_go: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    children: list[subprocess.Popen[str]],
) -> None:
    monkeypatch.setenv("SLEEP", "0.7")
    first = estate("one")
    children.append(first)
    until_compiling(first, tmp_path / "pids")
    shown = Recorder()
    assert tools.ensure(["one"], shown)["one"].exists()
    assert first.wait(10) == 0
    assert shown.phases("one") == ["waiting", "done"]
    assert (tmp_path / "record").read_text().count("build") == 1


def test_progress_counts_packages_up_to_the_total(slow_go: Folders) -> None:
    shown = Recorder()
    tools.ensure(["one"], shown)
    assert shown.events == [
        ("one", "download", 0, 1),
        ("one", "compile", 1, 2),
        ("one", "done", 1, 1),
    ]


def test_too_little_disk_is_said_before_anything_begins(
    slow_go: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(EstateError, match=r"disk of .*: 1\.0 GiB free, building 3 tools needs 3"):
        tools.ensure(["one", "two", "three"], lambda *_: None)
    assert not (tmp_path / "record").exists()


def test_a_full_disk_in_the_middle_is_named(
    slow_go: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "the folder")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(BuildFailed) as caught:
        tools.ensure(["one"], lambda *_: None)
    assert str(caught.value) == (
        "build of one 1.0.0: the folder: No space left on device; "
        "free some disk space, or set ESTATE_CACHE to a folder on another disk"
    )


# -- Go's caches -----------------------------------------------------------------------------------


def fill_caches(folders: Folders) -> list[Path]:
    filled = []
    for name in ("build", "mod"):
        folder = folders.cache / "go" / name / "read-only"
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 8192)
        folder.chmod(0o555)
        filled.append(folder)
    return filled


def test_the_last_build_of_a_group_removes_gos_caches(
    slow_go: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ESTATE_KEEP_GO_CACHES")
    filled = fill_caches(slow_go)
    tools.ensure(["one", "two"], lambda *_: None)
    assert all(folder.exists() for folder in filled), "three is still to be built with them"
    shown = Recorder()
    tools.ensure(["three"], shown)
    assert not any(folder.exists() for folder in filled)
    assert shown.phases("Go's caches") == ["removing", "done"]
    assert all(tools.find(tool) for tool in tools.catalogue().values())


def test_the_caches_stay_where_the_user_says_so_or_nothing_was_built(
    slow_go: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = fill_caches(slow_go)
    tools.ensure(["one", "two", "three"], lambda *_: None)
    assert all(folder.exists() for folder in filled)
    monkeypatch.delenv("ESTATE_KEEP_GO_CACHES")
    tools.ensure(["one", "two", "three"], lambda *_: None)
    assert all(folder.exists() for folder in filled)


def test_prune_counts_what_it_frees_and_refuses_beside_a_build(folders: Folders) -> None:
    filled = fill_caches(folders)
    kept = folders.cache / "tools" / "kubectl-1" / "kubectl"
    kept.parent.mkdir(parents=True)
    kept.touch()
    with (
        locked(go.in_use(), shared=True),
        pytest.raises(EstateError, match="Go's caches: in use by a build"),
    ):
        tools.prune()
    assert all(folder.exists() for folder in filled)
    assert tools.prune() >= 16384
    assert not any(folder.exists() for folder in filled)
    assert kept.exists()
    assert tools.prune() == 0


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("$ go build\npkg\nlink: no space left on device\n", "link: no space left on device"),
        ("pkg\ncompile: signal: killed\n", "compile: signal: killed"),
        ("go: downloading a v1\ngo: a@v1: 403 Forbidden\n", "go: a@v1: 403 Forbidden"),
        ("# x\n./main.go:1:2: undefined: y\n", "./main.go:1:2: undefined: y"),
        ("go: x\nverifying a@v1: checksum mismatch\n", "verifying a@v1: checksum mismatch"),
        ("go: errors parsing go.mod:\ngo.mod:3: x\n", "go: errors parsing go.mod: go.mod:3: x"),
        ("last words\n", "last words"),
        ("", "no output"),
    ],
)  # fmt: skip
def test_the_line_that_went_wrong_is_found_in_the_log(tmp_path: Path, log: str, said: str) -> None:
    (tmp_path / "log").write_text(log)
    assert reason(tmp_path / "log") == said
