"""The real node: containerd, kubelet and kube-proxy inside the sandbox.

The same programs as on any node, with three differences that this place asks for: the container
runtime's OOM scores stay within what the machine grants, the network is routed (ptp) instead of
bridged because a bridge needs a kernel module for Service replies, and nothing leads outside.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rehearsal import sandbox
from rehearsal.cilium import USER as CILIUM
from rehearsal.cilium import Cilium
from rehearsal.control_plane import write_kubeconfig
from rehearsal.errors import EstateError
from rehearsal.processes import Daemon, wait_for
from rehearsal.sandbox import Sandbox

NODE_NAME = "node-0"
PARTS = ("containerd", "kubelet", "kube-proxy", "cilium-agent")
_YEAR = datetime.timedelta(days=365)


class Node:
    """The kubelet node of one rehearsal."""

    def __init__(
        self, box: Sandbox, tools: Mapping[str, Path], debian: Path, *, pki: Path, pause_image: str
    ) -> None:
        self.box = box
        self.tools = tools
        self._debian = debian
        self._pki = pki
        self._pause = pause_image
        self.folder = box.folder / "node"
        self.socket = self.folder / "containerd.sock"
        self.daemons = {part: Daemon(box.folder, part) for part in PARTS}
        self.cgroup = f"/estate-{box.name}"
        self.policies = Cilium(
            box, tools, debian, self.folder / "cni", self.daemons["cilium-agent"]
        )

    # -- configuration -----------------------------------------------------------------------

    def ctr(self) -> list[str]:
        """The command prefix of containerd's client in the Kubernetes namespace."""
        return [
            *self.box.prefix(),
            str(self.tools["ctr"]),
            f"--address={self.socket}",
            "--namespace=k8s.io",
        ]

    def _issue(self, user: str, group: str | None, server: bool = False) -> tuple[Path, Path]:
        """A certificate for `user` (in `group`) from the cluster's CA, kept until it is removed."""
        name = user.replace(":", "-")
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if certificate.exists() and key.exists():
            return certificate, key
        with warnings.catch_warnings():
            # kwokctl's CA has the serial number 0, which cryptography warns of at each reading.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            authority = x509.load_pem_x509_certificate((self._pki / "ca.crt").read_bytes())
        authority_key = serialization.load_pem_private_key(
            (self._pki / "ca.key").read_bytes(), password=None
        )
        own = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
        if group:
            subject.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        now = datetime.datetime.now(datetime.UTC)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if server:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(authority.subject)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + _YEAR)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName(NODE_NAME), x509.IPAddress(ipaddress.ip_address(sandbox.NODE_IP))]
                ),
                critical=False,
            )
        )
        signed = builder.sign(authority_key, hashes.SHA256())  # type: ignore[arg-type]
        key.touch(mode=0o600)
        key.write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return certificate, key

    def _kubeconfig(self, user: str, group: str | None) -> Path:
        certificate, key = self._issue(user, group, server=user.startswith("system:node:"))
        path = self.folder / f"{user.replace(':', '-')}.kubeconfig"
        write_kubeconfig(
            path,
            f"https://{sandbox.NODE_IP}:6443",
            self._pki / "ca.crt",
            {"client-certificate": str(certificate), "client-key": str(key)},
        )
        return path

    def _write(self, name: str, content: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # kube-proxy ends itself when its file is written, even with the same content.
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
        return path

    def _cni(self) -> dict[str, object]:
        """The pods' network; its plugins are linked into the runtime's folder."""
        binaries = self.folder / "cni" / "bin"
        binaries.mkdir(parents=True, exist_ok=True)
        (self.folder / "cni" / "conf").mkdir(exist_ok=True)
        for plugin in ("ptp", "host-local", "loopback", "cilium-cni"):
            link = binaries / plugin
            if not link.is_symlink():
                link.symlink_to(self.tools[plugin])
        return {
            "cniVersion": "1.0.0",
            "name": "estate",
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.folder / "cni" / "addresses"),
                        "ranges": [[{"subnet": sandbox.NODE_POD_CIDR}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }

    def _containerd(self) -> Path:
        runc = sandbox.tool(self._debian, "runc")
        limited = not _may_raise_oom_score()
        return self._write(
            "containerd.toml",
            f"""version = 3
root = "{self.folder}/containerd"
state = "{self.folder}/run"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]

[grpc]
address = "{self.socket}"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{self._pause}"

[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE a process may not make itself harder to kill.
restrict_oom_score_adj = {str(limited).lower()}
enable_unprivileged_ports = true
enable_unprivileged_icmp = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{self.folder}/cni/bin"]
conf_dir = "{self.folder}/cni/conf"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
runtime_path = "{self.tools["containerd-shim-runc-v2"]}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
Root = "{self.folder}/runc"
""",
        )

    def _kubelet(self) -> Path:
        certificate, key = self._issue(f"system:node:{NODE_NAME}", "system:nodes", server=True)
        return self._write(
            "kubelet.yaml",
            yaml.safe_dump(
                {
                    "apiVersion": "kubelet.config.k8s.io/v1beta1",
                    "kind": "KubeletConfiguration",
                    "address": sandbox.NODE_IP,
                    "authentication": {
                        "anonymous": {"enabled": False},
                        "webhook": {"enabled": True},
                        "x509": {"clientCAFile": str(self._pki / "ca.crt")},
                    },
                    "authorization": {"mode": "Webhook"},
                    "tlsCertFile": str(certificate),
                    "tlsPrivateKeyFile": str(key),
                    "containerRuntimeEndpoint": f"unix://{self.socket}",
                    "cgroupDriver": "cgroupfs",
                    "cgroupRoot": self.cgroup,
                    "failCgroupV1": False,
                    "failSwapOn": False,
                    "clusterDomain": "cluster.local",
                    "clusterDNS": [sandbox.DNS_SERVICE_IP],
                    "enforceNodeAllocatable": ["pods"],
                    "healthzPort": 10248,
                    "healthzBindAddress": "127.0.0.1",
                    # The machine's disk is its owner's: fullness is reported by `doctor`, not
                    # answered by evicting the pods of a rehearsal.
                    "evictionHard": {"memory.available": "200Mi"},
                    "imageGCHighThresholdPercent": 100,
                    "imageMaximumGCAge": "0s",
                    "maxPods": 200,
                    # Starts many pods at once, and sees their changes without delay.
                    "serializeImagePulls": False,
                    "kubeAPIQPS": 500,
                    "kubeAPIBurst": 1000,
                    "syncFrequency": "10s",
                    "configMapAndSecretChangeDetectionStrategy": "Watch",
                    "nodeStatusUpdateFrequency": "5s",
                    "rotateCertificates": False,
                    "podLogsDir": str(self.folder / "pod-logs"),
                    "resolvConf": str(self._write("resolv.conf", "")),
                    "volumePluginDir": str(self.folder / "volume-plugins"),
                    "shutdownGracePeriod": "0s",
                }
            ),
        )

    def _proxy(self) -> Path:
        return self._write(
            "kube-proxy.yaml",
            yaml.safe_dump(
                {
                    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                    "kind": "KubeProxyConfiguration",
                    "mode": "nftables",
                    "clusterCIDR": sandbox.POD_CIDR,
                    "hostnameOverride": NODE_NAME,
                    "bindAddress": sandbox.NODE_IP,
                    "healthzBindAddress": "127.0.0.1:10256",
                    "metricsBindAddress": "127.0.0.1:10249",
                    "clientConnection": {
                        "kubeconfig": str(
                            self._kubeconfig("system:kube-proxy", "system:node-proxier")
                        )
                    },
                    "nftables": {"syncPeriod": "30s", "minSyncPeriod": "200ms"},
                    # Host-wide limits stay as the host has them.
                    "conntrack": {
                        "maxPerCore": 0,
                        "min": 0,
                        "tcpEstablishedTimeout": "0s",
                        "tcpCloseWaitTimeout": "0s",
                    },
                }
            ),
        )

    # -- life --------------------------------------------------------------------------------

    def _path(self) -> str:
        debian = f"{self._debian / 'usr/sbin'}:{self._debian / 'usr/bin'}"
        shims = self.tools["containerd-shim-runc-v2"].parent
        return f"{debian}:{shims}:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"

    def start_runtime(self) -> None:
        """Start containerd, which image imports need, and wait for its answer."""
        for folder in ("containerd", "run", "runc", "pod-logs", "volume-plugins"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        self._cni()
        configuration = self._containerd()
        env = {**os.environ, "PATH": self._path()}
        command = [str(self.tools["containerd"]), "--config", str(configuration)]
        self.daemons["containerd"].start([*self.box.prefix(), *command], env=env)

        def answers() -> bool:
            probe = [str(self.tools["ctr"]), f"--address={self.socket}", "version"]
            return self.box.run(probe, check=False).returncode == 0

        if not wait_for(answers, 30, 0.2):
            raise EstateError(
                "containerd",
                self.daemons["containerd"].last_words(),
                f"see {self.daemons['containerd'].log}",
            )

    def start(self) -> None:
        """Start kubelet, kube-proxy and the policy engine, beside containerd, unless they run."""
        env = {**os.environ, "PATH": self._path()}
        configuration = self._kubelet()
        kubeconfig = self._kubeconfig(f"system:node:{NODE_NAME}", "system:nodes")
        self._make_cgroups()
        kubelet = [
            str(self.tools["kubelet"]),
            f"--config={configuration}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={sandbox.NODE_IP}",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--cert-dir={self.folder}",
            "--node-labels=estate.dev/node=real",
            "--v=1",
        ]
        self.daemons["kubelet"].start([*self.box.prefix(), *kubelet], env=env)
        proxy = [str(self.tools["kube-proxy"]), f"--config={self._proxy()}", "--v=1"]
        self.daemons["kube-proxy"].start([*self.box.prefix(), *proxy], env=env)
        self.policies.start(self._cni(), NODE_NAME, self._kubeconfig(CILIUM, None))

    def _make_cgroups(self) -> None:
        """The kubelet wants its root cgroup to be there, in every hierarchy."""
        for hierarchy in _hierarchies():
            group = hierarchy / self.cgroup.strip("/")
            group.mkdir(exist_ok=True)
            if hierarchy.name == "cpuset":
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if not (group / file).read_text().strip():
                        (group / file).write_text((hierarchy / file).read_text())
            # As on a node of its own, where pods share by its cores. A group weighs as much as one
            # thread outside of groups: here all pods together would have as much as any of those.
            for file, core, most in (("cpu.shares", 1024, 1 << 18), ("cpu.weight", 100, 10_000)):
                if (group / file).exists():
                    (group / file).write_text(str(min(core * (os.cpu_count() or 1), most)))

    def running(self) -> dict[str, bool]:
        """Whether each part runs, by name."""
        return {name: daemon.process() is not None for name, daemon in self.daemons.items()}

    def stop(self) -> None:
        """End the parts that hold files; the sandbox's end takes the containers."""
        for part in reversed(PARTS):
            self.daemons[part].stop()

    def remove_cgroups(self) -> None:
        """Remove this rehearsal's cgroups, once nothing runs in them."""
        for hierarchy in _hierarchies():
            top = hierarchy / self.cgroup.strip("/")
            if not top.exists():
                continue
            folders = [path for path in top.rglob("*") if path.is_dir()]
            for folder in [*sorted(folders, reverse=True), top]:
                wait_for(lambda folder=folder: _rmdir(folder), 3, 0.05)


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _hierarchies() -> list[Path]:
    """The mount points of cgroup v2, or of each v1 controller."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [path for path in sorted(root.iterdir()) if path.is_dir() and not path.is_symlink()]


def _may_raise_oom_score() -> bool:
    """Whether this process has CAP_SYS_RESOURCE (bit 24) in its effective set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 24 & 1)
    return False
