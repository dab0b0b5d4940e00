"""Tries in a throw-away process what a container node asks of the kernel; prints JSON.

`python -m rehearsal.kernel_probe FOLDER` enters new namespaces first, so every mount, link and
rule that it makes ends with the process. FOLDER lies on the disk that would hold the layers.
Each answer is null when the thing worked, else the kernel's word for why not.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# From <linux/sched.h>, <linux/mount.h>, <linux/rtnetlink.h> and <linux/netfilter/nf_tables.h>.
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 0x40000, 2
NLM_REQUEST, NLM_ACK, NLM_NEW = 0x1, 0x4, 0x600
NLMSG_ERROR = 2  # also the acknowledgement, with code zero
RTM_NEWLINK, IFLA_IFNAME, IFLA_LINKINFO, IFLA_INFO_KIND = 16, 3, 18, 1
# From <linux/bpf.h>; the number of the system call by machine.
BPF_PROG_LOAD, BPF_PROG_TYPE_SCHED_CLS = 5, 3
BPF = {"x86_64": 321, "aarch64": 280}
NETLINK_NETFILTER, NFT_GET_GENERATION = 12, (10 << 8) | 16

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags))


def _mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    _check(
        _libc.mount(
            source.encode(),
            target.encode(),
            kind.encode(),
            ctypes.c_ulong(flags),
            data.encode() or None,
        )
    )


def _attribute(kind: int, payload: bytes) -> bytes:
    size = 4 + len(payload)
    return struct.pack("HH", size, kind) + payload + b"\0" * (-size % 4)


def _ask(protocol: int, kind: int, flags: int, body: bytes) -> None:
    """Send one netlink message; raises OSError with the kernel's answer if that is an error."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as channel:
        channel.settimeout(3)
        channel.bind((0, 0))
        header = struct.pack("IHHII", 16 + len(body), kind, flags | NLM_REQUEST, 1, 0)
        channel.send(header + body)
        answer = channel.recv(65536)
    if struct.unpack_from("H", answer, 4)[0] == NLMSG_ERROR:
        number = -struct.unpack_from("i", answer, 16)[0]
        if number:
            raise OSError(number, os.strerror(number))


def _link(kind: str) -> None:
    """Create a network link of `kind` in the namespace of this process."""
    body = struct.pack("BxHiII", 0, 0, 0, 0, 0)
    body += _attribute(IFLA_IFNAME, f"probe-{kind}".encode() + b"\0")
    body += _attribute(IFLA_LINKINFO, _attribute(IFLA_INFO_KIND, kind.encode()))
    _ask(socket.NETLINK_ROUTE, RTM_NEWLINK, NLM_ACK | NLM_NEW, body)


def _nftables() -> None:
    _ask(NETLINK_NETFILTER, NFT_GET_GENERATION, 0, struct.pack("BBH", 0, 0, 0))


def _overlay(folder: Path) -> None:
    names = {name: folder / name for name in ("lower", "upper", "work", "merged")}
    for path in names.values():
        path.mkdir()
    (names["lower"] / "file").write_text("lower")
    data = f"lowerdir={names['lower']},upperdir={names['upper']},workdir={names['work']}"
    _mount("overlay", str(names["merged"]), "overlay", 0, data)
    try:
        (names["merged"] / "file").write_text("upper")
    finally:
        _libc.umount2(str(names["merged"]).encode(), MNT_DETACH)


def _bpf(folder: Path) -> None:
    """Mount the file system of BPF, and load the smallest program: `return 0`."""
    (folder / "bpf").mkdir()
    _mount("bpf", str(folder / "bpf"), "bpf")
    _libc.umount2(str(folder / "bpf").encode(), MNT_DETACH)
    code = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    text = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQ", BPF_PROG_TYPE_SCHED_CLS, 2, *(ctypes.addressof(buffer) for buffer in text)
    ).ljust(128, b"\0")
    program = _libc.syscall(BPF[os.uname().machine], BPF_PROG_LOAD, attributes, len(attributes))
    if program < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    os.close(program)


def _proc(folder: Path) -> None:
    """Mount /proc in a new process namespace, as every container does."""
    child = os.fork()
    if child == 0:
        try:
            (folder / "proc").mkdir()
            _mount("proc", str(folder / "proc"), "proc")
            _libc.umount2(str(folder / "proc").encode(), MNT_DETACH)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number:
        raise OSError(number, os.strerror(number))


def _oom() -> None:
    """Lower this process's OOM score, which takes CAP_SYS_RESOURCE."""
    Path("/proc/self/oom_score_adj").write_text("-999")


def probe(folder: Path) -> dict[str, str | None]:
    """Enter new namespaces and try everything; the caller's process stays in them."""
    answers: dict[str, str | None] = {}

    def attempt(topic: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except OSError as error:
            answers[topic] = error.strerror or str(error)
            return False
        answers[topic] = None
        return True

    attempt("oom_score", _oom)
    flags = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC
    if not attempt("namespaces", lambda: _unshare(flags)):
        attempt("user_namespaces", lambda: _unshare(CLONE_NEWUSER))
        return answers
    _mount("none", "/", "none", MS_REC | MS_PRIVATE)
    scratch = Path(tempfile.mkdtemp(prefix="probe-", dir=folder))
    try:
        attempt("overlayfs", lambda: _overlay(scratch))
        attempt("veth", lambda: _link("veth"))
        attempt("bridge", lambda: _link("bridge"))
        attempt("nftables", _nftables)
        attempt("bpf", lambda: _bpf(scratch))
        attempt("proc", lambda: _proc(scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return answers


if __name__ == "__main__":
    print(json.dumps(probe(Path(sys.argv[1]))))
