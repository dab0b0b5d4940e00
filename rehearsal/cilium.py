"""Cilium on the real node: NetworkPolicy enforced by its agent, behind the node's own CNI plugin.

The agent is chained (ADR 14): ptp makes the pod's link, Cilium puts its programs on it, kube-proxy
keeps the Services. It compiles its datapath at start. What its operator would do (the definitions
of its resources) is applied with DNS and storage.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from rehearsal import paths, sandbox
from rehearsal.images import Apt, unpack_tools
from rehearsal.processes import Daemon
from rehearsal.sandbox import Sandbox

TOOLS = ("cilium-agent", "cilium-cni", "cilium-files")
USER = "estate:cilium-agent"
"""Whom the agent's certificate names; addons/cilium.yaml says what it may do."""

_COMPILER = "clang-19"
# To compile for BPF takes no C library, no linker and no C++.
_NOT_NEEDED = (
    *("binutils", "llvm-19-linker-tools", "libclang1-19"),
    *("libc6-dev", "libgcc-12-dev", "libstdc++-12-dev", "libobjc-12-dev"),
)
# Its own policies and what belongs to several nodes are left out, so these are all it waits for.
_DEFINITIONS = (
    *("v2/ciliumidentities", "v2/ciliumendpoints", "v2/ciliumnodes"),
    *("v2/ciliumloadbalancerippools", "v2alpha1/ciliumpodippools"),
    "v2alpha1/ciliuml2announcementpolicies",
)
# Default deny would stop the kubelet's probes: the kernel's packets of the node carry no identity,
# so they get the mark by which Cilium knows its host (MARK_MAGIC_HOST).
_MARK = """table ip estate
flush table ip estate
table ip estate {
  chain output {
    type filter hook output priority filter; policy accept;
    meta mark set meta mark & 0xfffff0ff | 0x00000c00
  }
}
"""


class Cilium:
    """The policy engine of one node; `cni` is the folder of the node's CNI (bin, conf)."""

    def __init__(
        self, box: Sandbox, tools: Mapping[str, Path], debian: Path, cni: Path, daemon: Daemon
    ) -> None:
        self.box = box
        self._tools = tools
        self._debian = debian
        self._cni = cni
        self._folder = box.folder / "node" / "cilium"
        self.daemon = daemon

    @property
    def _compiler(self) -> Path:
        return paths.cache() / "debian-clang"

    @property
    def _network(self) -> Path:
        return self._cni / "conf" / "10-estate.conflist"

    def unpack(self) -> None:
        """Have the compiler in the cache, and the agent's files in the rehearsal."""
        apt = Apt(paths.cache() / "images" / "apt")
        unpack_tools([_COMPILER], self._compiler, apt=apt, without=_NOT_NEEDED)
        mark = self._folder / "files.json"
        built = str(self._tools["cilium-files"])
        if mark.exists() and json.loads(mark.read_text()) == built:
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self.box.run([built, str(self._folder)])
        mark.write_text(json.dumps(built))

    def definitions(self) -> str:
        """The definitions that the agent waits for, as a YAML stream."""
        return "---\n".join((self._folder / "crds" / f"{n}.yaml").read_text() for n in _DEFINITIONS)

    def start(self, network: Mapping[str, object], node: str, kubeconfig: Path) -> None:
        """Start the agent unless it runs; it writes `network` for the runtime once it is ready.

        Until then the node is NotReady, so that no pod starts without its policies.
        """
        if self.daemon.process() is not None:
            return
        self._network.unlink(missing_ok=True)
        plugin = {"type": "cilium-cni", "chaining-mode": "generic-veth"}
        plugins = [*network["plugins"], plugin]  # type: ignore[misc]
        template = self._folder / "estate.conflist"
        template.write_text(json.dumps({**network, "plugins": plugins}))
        rules = self._folder / "mark.nft"
        rules.write_text(_MARK)
        self.box.run([sandbox.tool(self._debian, "nft"), "-f", str(rules)])
        # The runtime does not see a file that is moved in from elsewhere on the same file system,
        # as the agent would do from a TMPDIR there.
        env = {**os.environ, "K8S_NODE_NAME": node, "PATH": self._path(), "TMPDIR": "/run"}
        arguments = [f"--{key}={value}" for key, value in self._options(kubeconfig, template)]
        self.daemon.start(
            [*self.box.prefix(), str(self._tools["cilium-agent"]), *arguments], env=env
        )

    def _path(self) -> str:
        clang = next((self._compiler / "usr" / "lib").glob("llvm-*/bin"))
        return f"{clang}:{self._debian / 'usr/sbin'}:{os.environ.get('PATH', os.defpath)}"

    def _options(self, kubeconfig: Path, template: Path) -> list[tuple[str, str]]:
        gateway = next(ipaddress.ip_network(sandbox.NODE_POD_CIDR).hosts())
        off = (
            *("enable-ipv6", "enable-ipv4-masquerade", "enable-l7-proxy", "enable-envoy-config"),
            *("enable-health-checking", "enable-endpoint-health-checking", "enable-hubble"),
            *("enable-cilium-network-policy", "enable-cilium-clusterwide-network-policy"),
            *("kube-proxy-replacement", "bpf-lb-sock", "install-iptables-rules"),
            *("enable-well-known-identities", "enable-xt-socket-fallback", "cni-exclusive"),
            *("auto-direct-node-routes", "enable-bandwidth-manager", "enable-dynamic-config"),
        )
        return [
            ("k8s-kubeconfig-path", str(kubeconfig)),
            ("state-dir", "/run/cilium"),
            ("socket-path", "/run/cilium/cilium.sock"),
            ("cgroup-root", "/run/cilium/cgroup"),
            ("lib-dir", str(self._folder)),
            ("cni-chaining-mode", "generic-veth"),
            ("read-cni-conf", str(template)),
            ("write-cni-conf-when-ready", str(self._network)),
            ("ipam", "delegated-plugin"),
            ("local-router-ipv4", str(gateway)),
            ("routing-mode", "native"),
            ("ipv4-native-routing-cidr", sandbox.POD_CIDR),
            ("enable-endpoint-routes", "true"),
            ("identity-allocation-mode", "crd"),
            # An ipBlock may name the node, where the API server answers.
            ("policy-cidr-match-mode", "nodes"),
            *((key, "false") for key in off),
        ]
