"""The namespaces that a rehearsal lives in: mounts, network, processes, host name.

One holder process (PID 1 of the rehearsal's PID namespace) keeps them. Whatever the rehearsal
mounts, adds to a network or starts exists only inside, so ending the holder ends all of it, and
the kernel does the cleaning. The host gets no interface, no mount, no rule and no sysctl.

Without the right to make namespaces, `Direct` runs the same commands on the host's loopback.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from rehearsal.errors import EstateError
from rehearsal.processes import Daemon, run_group, wait_for

# Addresses exist only inside the rehearsal's network namespace: nothing routes to them from the
# host, so every rehearsal uses the same ones.
NODE_IP = "172.31.255.1"
POD_CIDR = "10.244.0.0/16"
NODE_POD_CIDR = "10.244.0.0/22"  # 1,022 addresses for the one real node
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"

# What the kubelet would write into the host's kernel (kubelet pkg/kubelet/cm, setupKernelTunables)
# and refuses to run without. It reads these files instead and finds nothing to change.
_SYSCTLS = "/proc/sys/kernel"
_KERNEL_TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


class Sandbox:
    """A set of namespaces held by one process; `folder` is the rehearsal's state."""

    def __init__(self, name: str, folder: Path, debian: Path) -> None:
        self.name = name
        self.folder = folder
        self._debian = debian
        self._holder = Daemon(folder, "sandbox")

    @property
    def init(self) -> int | None:
        """The process id (on the host) of the namespace's PID 1, or None when it is gone."""
        outer = self._holder.process()
        if outer is None:
            return None
        try:
            children = outer.children()
        except psutil.NoSuchProcess:
            return None
        return int(children[0].pid) if children else None

    @property
    def alive(self) -> bool:
        """Whether the namespaces exist."""
        return self.init is not None

    def prefix(self) -> list[str]:
        """The command prefix that runs a command inside.

        Raises EstateError when the sandbox is not there.
        """
        init = self.init
        if init is None:
            raise EstateError(f"rehearsal {self.name}", "its sandbox is gone", "run: ./estate up")
        return ["nsenter", "--target", str(init), "--mount", "--net", "--pid", "--ipc", "--uts"]

    def run(
        self, argv: Sequence[str], *, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside and wait for it; EstateError with its last line if it fails."""
        done = run_group([*self.prefix(), *argv], env={**os.environ, **env} if env else None)
        if check and done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            raise EstateError(Path(argv[0]).name, words[-1][:300], f"see {self.folder / 'logs'}")
        return done

    def create(self) -> bool:
        """Make the namespaces unless they are there; True when they were made now."""
        if self.alive:
            return False
        self._holder.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._holder.start(
            [
                *("unshare", "--mount", "--net", "--pid", "--ipc", "--uts"),
                *("--fork", "--kill-child", "--mount-proc", "--propagation", "private"),
                *(tool(self._debian, "catatonit"), "-P"),
            ]
        )
        if not wait_for(lambda: self.init is not None and self._catatonit_runs(), 10):
            raise EstateError(
                "sandbox", self._holder.last_words(), "see: ./estate doctor for what is missing"
            )
        self._prepare()
        return True

    def _catatonit_runs(self) -> bool:
        try:
            init = self.init
            return init is not None and psutil.Process(init).name() == "catatonit"
        except psutil.NoSuchProcess:
            return False

    def _prepare(self) -> None:
        tunables = self.folder / "tunables"
        logs = self.folder / "var-log"
        logs.mkdir(exist_ok=True)
        # Sockets, locks and log links of the node go to places that only the sandbox sees.
        lines = ["set -e", "resolv=$(readlink -m /etc/resolv.conf)", f"hostname {self.name}"]
        lines += ["mount -t tmpfs -o mode=755 tmpfs /run", "mkdir -p /run/lock"]
        lines += [f"mount --bind {logs} /var/log"]
        lines += ["mkdir -p /run/keep /run/var-lib/upper /run/var-lib/work"]
        lines += [f"mount --bind {self.folder} /run/keep"]
        layers = "lowerdir=/var/lib,upperdir=/run/var-lib/upper,workdir=/run/var-lib/work"
        lines += [f"mount -t overlay -o {layers} overlay /var/lib"]
        if self.folder.is_relative_to("/var/lib"):
            lines += [f"mount --bind /run/keep {self.folder}"]
        lines += ["umount /run/keep", "mount --make-rshared /"]
        lines += ["mkdir -p $(dirname $resolv)", "[ -e $resolv ] || : > $resolv"]
        # Cilium's agent sets what is the host's: it warns instead, and goes on. What it pins in the
        # file system of BPF goes with these namespaces.
        lines += [f"mount --bind {_SYSCTLS} {_SYSCTLS}", f"mount -o remount,bind,ro {_SYSCTLS}"]
        lines += ["mount -t bpf bpf /sys/fs/bpf"]
        for path, value in _KERNEL_TUNABLES.items():
            file = tunables / path.replace("/", ".")
            file.parent.mkdir(exist_ok=True)
            file.write_text(value + "\n")
            sysctl = f"/proc/sys/{path}"
            lines.append(f"if [ -e {sysctl} ]; then mount --bind {file} {sysctl}; fi")
        resolv = self.folder / "resolv.conf"
        resolv.write_text(
            "search svc.cluster.local cluster.local\n"
            f"nameserver {DNS_SERVICE_IP}\noptions ndots:5\n"
        )
        ip = tool(self._debian, "ip")
        lines += [
            f"mount --bind {resolv} $resolv",
            f"{ip} link set lo up",
            f"{ip} address add {NODE_IP}/32 dev lo",
            # Service addresses need some route before kube-proxy's rules see a packet of the node.
            f"{ip} route add {SERVICE_CIDR} dev lo src {NODE_IP}",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
        ]
        self.run(["sh", "-c", "\n".join(lines)])

    def destroy(self) -> None:
        """End every process inside; mounts, links and rules go with the namespaces."""
        init = self.init
        if init is not None:
            # PID 1 ignores SIGTERM's default inside its namespace; the kernel kills the rest.
            os.kill(init, signal.SIGKILL)
        self._holder.stop(grace=5)


class Direct:
    """No namespaces: the control plane alone, bound to the host's loopback."""

    alive = True

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    def prefix(self) -> list[str]:
        """No prefix: commands run on the host."""
        return []

    def run(
        self, argv: Sequence[str], *, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and wait for it; EstateError with its last line if it fails."""
        return Sandbox.run(self, argv, check=check, env=env)  # type: ignore[arg-type]

    def create(self) -> bool:
        """Nothing to make."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return False

    def destroy(self) -> None:
        """Nothing to end."""


def tool(debian: Path, name: str) -> str:
    """A command from the unpacked Debian packages, else PATH's; EstateError when neither has it."""
    for folder in ("usr/sbin", "usr/bin"):
        if (binary := debian / folder / name).exists():
            return str(binary)
    found = shutil.which(name)
    if found is None:
        raise EstateError(f"command {name}", "not found", "install it, or see: ./estate doctor")
    return found
