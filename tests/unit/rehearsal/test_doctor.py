"""The doctor: what it reads, what it tries, and that it leaves no trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal import doctor, kernel_probe, paths, registries

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1 = HYBRID.replace("41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n", "")
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("mountinfo", "expected"),
    [
        (HYBRID, ("hybrid", {"cpu", "cpuacct", "memory"})),
        (V1, ("v1", {"cpu", "cpuacct", "memory"})),
        (V2, ("v2", {"cpu", "memory", "pids"})),
        ("22 1 8:1 / / rw - ext4 /dev/root rw\n", ("none", set())),
        ("", ("none", set())),
    ],
)
def test_cgroup_layouts(mountinfo: str, expected: tuple[str, set[str]]) -> None:
    kind, controllers, folders = doctor.cgroups(mountinfo, "cpu memory pids\n")
    assert (kind, controllers) == expected
    assert bool(folders) == (kind != "none")


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("000001ffffffffff", {"CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"}),
        ("000001fffeffffff", {"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}),
        ("00000000a80425fb", set()),  # a container engine's default
        ("0000000000000000", set()),
    ],
)
def test_capabilities(mask: str, expected: set[str]) -> None:
    assert doctor.capabilities(f"Name:\tx\nCapPrm:\t0\nCapEff:\t{mask}\n") == expected


def test_every_lack_says_what_follows() -> None:
    findings = doctor.collect(offline=True)
    assert {"Python", "Go", "rights", "cgroups", "memory", "kubectl"} <= {
        found.topic for found in findings
    }
    for found in findings:
        assert found.detail
        assert found.consequence or found.status == "ok", found


def test_the_verdict_names_each_hard_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = (
        doctor.Finding(
            "rights", "missing", "user id 1000, not root", "a container node needs root"
        ),
        doctor.Finding("capabilities", "limited", "without CAP_SYS_RESOURCE", "restricted"),
        doctor.Finding("nftables", "missing", "Protocol not supported", "no container node"),
    )
    monkeypatch.setattr(doctor, "_container_findings", lambda: lacks)
    possible, reason = doctor.containers_possible()
    assert not possible
    assert reason == "rights: user id 1000, not root; nftables: Protocol not supported"


def test_without_root_containers_are_not_possible() -> None:
    """Run as the user nobody where this is root, else as who we are."""
    code = (
        "import os, psutil, rehearsal.doctor as d\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "possible, reason = d.containers_possible()\n"
        "assert not possible\n"
        "print(reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.root(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "not root" in done.stdout


def host() -> dict[str, str]:
    mounts = Path("/proc/self/mounts").read_text()
    links = Path("/proc/self/net/dev").read_text()
    return {
        "mounts": mounts,
        "links": "\n".join(line.partition(":")[0] for line in links.splitlines()),
        "namespaces": str([os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "net", "pid")]),
    }


def test_the_kernel_probe_tries_all_and_leaves_nothing(tmp_path: Path) -> None:
    before = host()
    done = subprocess.run(
        [sys.executable, "-m", "rehearsal.kernel_probe", str(tmp_path)],
        cwd=paths.root(),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = json.loads(done.stdout)
    assert host() == before
    assert list(tmp_path.iterdir()) == []
    if answers["namespaces"] is None:
        assert set(answers) >= {"overlayfs", "veth", "bridge", "nftables", "bpf", "proc"}


def test_a_kind_of_link_that_does_not_exist_is_refused() -> None:
    """The probe can say no: the answer comes from the kernel and not from us."""
    code = (
        "from rehearsal import kernel_probe as k\n"
        "k._unshare(k.CLONE_NEWUSER | k.CLONE_NEWNET)\n"
        "k._link('veth')\n"
        "try: k._link('nosuch')\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.root(), capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("this machine allows no user namespaces")
    assert done.stdout.strip() == "Operation not supported", done.stderr


def test_registries_that_do_not_answer_are_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    topic, problem, feeds = registries._python_index()
    assert topic == "package index (pip)"
    assert problem is not None
    assert problem.lower() == "not reachable: connection refused"
    assert feeds


def test_npm_s_own_words_for_no_answer_are_understood() -> None:
    problem = registries._try(
        ["sh", "-c", "echo 'npm error code ECONNREFUSED' >&2; echo 'npm error a log' >&2; exit 1"]
    )
    assert problem == "not reachable: ECONNREFUSED"


def test_a_client_that_fails_is_quoted_in_one_line(tmp_path: Path) -> None:
    problem = registries._try(
        ["sh", "-c", "echo; echo 'E: first'; echo 'E: no such suite' >&2; exit 100"]
    )
    assert problem == "E: no such suite"
    assert registries._try(["true"]) is None
    missing = str(tmp_path / "missing")
    assert registries._try([missing]) == f"{missing}: No such file or directory"


def test_attributes_are_padded_to_four_bytes() -> None:
    assert kernel_probe._attribute(3, b"abcde") == b"\x09\x00\x03\x00abcde\0\0\0"


def test_json_is_the_only_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(as_json=True, offline=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"containers", "findings"}
    assert set(told["findings"][0]) == {"topic", "status", "detail", "consequence"}


def test_the_limits_of_ones_own_cgroup_and_of_those_above_count() -> None:
    v1 = "18:35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    v2 = "18:35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    files = doctor._memory_limits("5:memory:/a/b\n4:cpu,cpuacct:/c\n0::/d\n", v1)
    folder = Path("/sys/fs/cgroup/memory")
    assert [str(file.parent.relative_to(folder)) for file in files] == ["a/b", "a", "."]
    (own, root) = doctor._memory_limits("0::/session\n", v2)
    assert own == Path("/sys/fs/cgroup/session/memory.max")
    assert root == Path("/sys/fs/cgroup/memory.max")
    assert list(doctor._memory_limits("0::/session\n", "")) == []


def test_memory_is_the_smaller_of_machine_and_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(doctor, "_memory_limits", lambda *_: iter([limit]))
    limit.write_text("max\n")
    assert doctor.memory()[1] > 2**28
    limit.write_text(f"{2**28}\n")
    assert doctor.memory() == (2**28, 2**28)
