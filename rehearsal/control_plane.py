"""The Kubernetes control plane: kwokctl's binary runtime, bound to loopback.

kwokctl makes the certificates, starts etcd, the API server, the controller manager, the scheduler
and KWOK, and starts again what died (`start cluster`). What is ours is its configuration.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import yaml

from rehearsal import addons, sandbox
from rehearsal.errors import EstateError
from rehearsal.sandbox import Direct, Sandbox

PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok-controller")
KUBERNETES_VERSION = "v1.35.0"
_CLUSTER = "estate"
_FAKE_NODES = "kwok.x-k8s.io/node=fake"
MOVE = "end that program; or take the rehearsal down and choose others: ./estate up --port-base N"
"""The way out when a port that a rehearsal has already is taken by somebody else."""


class ControlPlane:
    """The control plane of one rehearsal; `box` is where it runs."""

    def __init__(
        self, box: Sandbox | Direct, tools: Mapping[str, Path], *, api_port: int, ports: int
    ) -> None:
        """`api_port` is the API server's; `ports` the first of four more for the others."""
        self.box = box
        self.tools = tools
        self.api_port = api_port
        self._ports = ports
        self._work = box.folder / "kwok"

    @property
    def pki(self) -> Path:
        """The folder of kwokctl's ca.crt, ca.key, admin.crt, admin.key."""
        return self._work / "clusters" / _CLUSTER / "pki"

    @property
    def logs(self) -> Path:
        """The folder with a log per part."""
        return self._work / "clusters" / _CLUSTER / "logs"

    def _command(self, *arguments: str) -> list[str]:
        # The environment goes through env(1): kwokctl hands it on to what it starts.
        return [
            "env",
            f"KWOK_WORKDIR={self._work}",
            f"KWOK_KUBE_VERSION={KUBERNETES_VERSION}",
            "KUBECONFIG=/dev/null",
            # It asks through kubectl, which would else cache in the user's ~/.kube.
            f"KUBECACHEDIR={self.box.folder / 'kubectl-cache'}",
            str(self.tools["kwokctl"]),
            f"--name={_CLUSTER}",
            *arguments,
        ]

    def _configuration(self) -> Path:
        in_sandbox = isinstance(self.box, Sandbox)
        # Pods reach the API server at the node's address, so it listens on all addresses of the
        # sandbox; etcd and the others keep to loopback (kwokctl's default is every interface).
        address = {"bind-address": "0.0.0.0", "advertise-address": sandbox.NODE_IP}
        api = {
            "service-cluster-ip-range": sandbox.SERVICE_CIDR,
            "kubelet-preferred-address-types": "InternalIP",
            "kubelet-client-certificate": str(self.pki / "admin.crt"),
            "kubelet-client-key": str(self.pki / "admin.key"),
            "enable-admission-plugins": "NodeRestriction",
            "profiling": "false",
            **(address if in_sandbox else {}),
        }
        manager = {
            "service-cluster-ip-range": sandbox.SERVICE_CIDR,
            "cluster-cidr": sandbox.POD_CIDR,
            "allocate-node-cidrs": "false",
            # One of each, so no election to wait for when one of them is started again.
            "leader-elect": "false",
            "node-monitor-period": "5s",
            "node-monitor-grace-period": "40s",
        }
        # Only annotated nodes are simulated; the kubelet answers for the real one.
        simulated = {
            "manage-all-nodes": "false",
            "manage-nodes-with-annotation-selector": _FAKE_NODES,
            # Renewed after a quarter of it: kwokctl's 200 s would be later than the grace period
            # above, and every simulated node NotReady for some seconds of each minute.
            "node-lease-duration-seconds": "40",
        }
        if not in_sandbox:
            # The flag adds up: kwokctl's own file keeps the stages of pods and nodes.
            stages = self.box.folder / "stages.yaml"
            stages.write_text(addons.stages())
            simulated["config"] = str(stages)

        # Appended last, so that they win over kwokctl's own of the same name.
        def patch(name: str, arguments: Mapping[str, str]) -> dict[str, object]:
            extra = [{"key": k, "value": v} for k, v in arguments.items()]
            return {"name": name, "extraArgs": extra}

        options = {
            "runtime": "binary",
            "bindAddress": "127.0.0.1",
            "disableQPSLimits": True,
            "kubeApiserverCertSANs": [
                *("localhost", "127.0.0.1", sandbox.API_SERVICE_IP, sandbox.NODE_IP),
                *("kubernetes", "kubernetes.default", "kubernetes.default.svc"),
            ],
            "kubeApiserverPort": self.api_port,
            "etcdPort": self._ports,
            "etcdPeerPort": self._ports + 1,
            "kubeControllerManagerPort": self._ports + 2,
            "kubeSchedulerPort": self._ports + 3,
            "kwokControllerPort": self._ports + 4,
            "etcdBinary": str(self.tools["etcd"]),
            "kubeApiserverBinary": str(self.tools["kube-apiserver"]),
            "kubeControllerManagerBinary": str(self.tools["kube-controller-manager"]),
            "kubeSchedulerBinary": str(self.tools["kube-scheduler"]),
            "kubectlBinary": str(self.tools["kubectl"]),
            "kwokControllerBinary": str(self.tools["kwok"]),
        }
        document = {
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokctlConfiguration",
            "options": options,
            "componentsPatches": [
                patch("kube-apiserver", api),
                patch("kube-controller-manager", manager),
                patch("kube-scheduler", {"leader-elect": "false"}),
                patch("kwok-controller", simulated),
            ],
        }
        path = self.box.folder / "kwokctl.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def start(self) -> bool:
        """Create the cluster, or start those parts of it that do not run; True when new."""
        new = not (self._work / "clusters" / _CLUSTER / "kwok.yaml").exists()
        running = {} if new else self.running()
        if not new and all(running.values()):
            return False
        if new:
            # What an interrupted creation left behind has no data worth keeping.
            shutil.rmtree(self._work, ignore_errors=True)
            arguments = ["create", "cluster", "--config", str(self._configuration())]
            arguments += ["--wait=60s", "--quiet-pull", "--kubeconfig="]
        else:
            self._forget_strangers(running)
            self._ports_ours(running)
            arguments = ["start", "cluster", "--wait=60s"]
        done = self.box.run(self._command(*arguments), check=False)
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            if new:
                self.box.run(self._command("delete", "cluster"), check=False)
            raise EstateError("control plane", words[-1][-300:], f"see {self.logs}")
        return new

    def running(self) -> dict[str, bool]:
        """Whether each part runs, by name."""
        return {name: self._runs(name) for name in PARTS}

    def _pid_file(self, name: str) -> Path:
        return self._work / "clusters" / _CLUSTER / "pids" / f"{name}.pid"

    def _runs(self, name: str) -> bool:
        try:
            pid = int(self._pid_file(name).read_text())
        except (OSError, ValueError):
            return False
        # By its program too: the kernel may have given the id to somebody else since.
        probe = self.box.run(["sh", "-c", f"tr '\\0' '\\n' < /proc/{pid}/cmdline"], check=False)
        return probe.returncode == 0 and probe.stdout.startswith(str(self._work))

    def _forget_strangers(self, running: Mapping[str, bool]) -> None:
        """Remove ids of ended processes: kwokctl goes by the id alone, also when it kills."""
        for name, runs in running.items():
            if not runs:
                self._pid_file(name).unlink(missing_ok=True)

    def _ports_ours(self, running: Mapping[str, bool]) -> None:
        """Raise EstateError for a port on the host that somebody took while its part was down."""
        if isinstance(self.box, Sandbox):
            return
        numbers = {"etcd": 0, "kube-controller-manager": 2, "kube-scheduler": 3}
        ports = {name: self._ports + at for name, at in numbers.items()}
        ports |= {"kube-apiserver": self.api_port, "kwok-controller": self._ports + 4}
        for name, runs in running.items():
            if not runs and not port_free(ports[name]):
                raise EstateError(
                    f"port {ports[name]} ({name})", "in use by another program on 127.0.0.1", MOVE
                )

    def kubeconfig(self, path: Path, server: str) -> None:
        """Write an administrator's kubeconfig (mode 0600) for the API at this address."""
        admin = {
            "client-certificate": str(self.pki / "admin.crt"),
            "client-key": str(self.pki / "admin.key"),
        }
        write_kubeconfig(path, server, self.pki / "ca.crt", admin)

    def stop(self) -> None:
        """End every part and remove its data; nothing happens when there is none."""
        if self._work.exists() and self.box.alive:
            self._forget_strangers(self.running())
            self.box.run(self._command("delete", "cluster"), check=False)


def write_kubeconfig(path: Path, server: str, ca: Path, user: Mapping[str, str]) -> None:
    """Write a kubeconfig with one cluster, one user and one context named `estate`."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "estate", "cluster": {"server": server, "certificate-authority": str(ca)}}
        ],
        "users": [{"name": "estate", "user": dict(user)}],
        "contexts": [{"name": "estate", "context": {"cluster": "estate", "user": "estate"}}],
        "current-context": "estate",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))


def port_free(port: int) -> bool:
    """Whether a loopback TCP port can be bound now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
