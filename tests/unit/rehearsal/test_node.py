"""The real node's files: what containerd, the kubelet, kube-proxy and CNI are told."""

from __future__ import annotations

import ipaddress
import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rehearsal import cilium, paths, sandbox
from rehearsal import node as node_module
from rehearsal.node import NODE_NAME, Node
from rehearsal.sandbox import Sandbox
from tests.unit.rehearsal.authority import authority

PAUSE = "registry.k8s.io/pause@sha256:" + "0" * 64


@pytest.fixture
def node(tmp_path: Path) -> Node:
    state = tmp_path / "state"
    pki = tmp_path / "pki"
    pki.mkdir()
    authority(pki)
    made = Node(
        Sandbox("box", state, tmp_path / "debian"),
        {name: tmp_path / "tools" / name for name in TOOLS},
        tmp_path / "debian",
        pki=pki,
        pause_image=PAUSE,
    )
    made.folder.mkdir(parents=True)
    runc = tmp_path / "debian" / "usr" / "sbin" / "runc"
    runc.parent.mkdir(parents=True)
    runc.touch()
    return made


TOOLS = (
    *("containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy"),
    *("ptp", "host-local", "loopback", *cilium.TOOLS),
)


def document(file: Path) -> dict[str, Any]:
    value = yaml.safe_load(file.read_text())
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("privileged", [True, False])
def test_containerd_keeps_to_the_rehearsals_folder(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, privileged: bool
) -> None:
    monkeypatch.setattr(node_module, "_may_raise_oom_score", lambda: privileged)
    config = tomllib.loads(node._containerd().read_text())
    assert config["version"] == 3
    for key in ("root", "state"):
        assert Path(config[key]).is_relative_to(node.folder)
    assert config["grpc"]["address"] == str(node.socket)
    plugins = config["plugins"]
    assert plugins["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"] == PAUSE
    runtime = plugins["io.containerd.cri.v1.runtime"]
    # Without CAP_SYS_RESOURCE every pod would die at once, with it the kubelet's order stays.
    assert runtime["restrict_oom_score_adj"] is not privileged
    runc = runtime["containerd"]["runtimes"]["runc"]
    assert runc["runtime_path"] == str(tmp_path / "tools" / "containerd-shim-runc-v2")
    assert runc["options"]["BinaryName"] == str(tmp_path / "debian" / "usr" / "sbin" / "runc")
    assert Path(runc["options"]["Root"]).is_relative_to(node.folder)
    assert [Path(folder) for folder in runtime["cni"]["bin_dirs"]] == [node.folder / "cni" / "bin"]


def test_the_kubelet_asks_who_calls_and_touches_no_disk_but_its_own(
    node: Node, tmp_path: Path
) -> None:
    config = document(node._kubelet())
    assert config["kind"] == "KubeletConfiguration"
    assert config["address"] == sandbox.NODE_IP
    assert config["authentication"]["anonymous"] == {"enabled": False}
    assert config["authentication"]["x509"]["clientCAFile"] == str(tmp_path / "pki" / "ca.crt")
    assert config["authorization"] == {"mode": "Webhook"}
    assert config["healthzBindAddress"] == "127.0.0.1"
    assert config["containerRuntimeEndpoint"] == f"unix://{node.socket}"
    assert config["cgroupRoot"] == "/estate-box"
    assert config["clusterDNS"] == [sandbox.DNS_SERVICE_IP]
    for key in ("podLogsDir", "resolvConf", "volumePluginDir", "tlsCertFile", "tlsPrivateKeyFile"):
        assert Path(config[key]).is_relative_to(node.folder), key


def test_pods_get_addresses_within_the_cluster_and_no_way_out(node: Node, tmp_path: Path) -> None:
    network: Any = node._cni()
    (plugin,) = network["plugins"]
    assert plugin["type"] == "ptp" and plugin["ipMasq"] is False
    ((subnet,),) = plugin["ipam"]["ranges"]
    pods = ipaddress.ip_network(subnet["subnet"])
    assert pods.subnet_of(ipaddress.ip_network(sandbox.POD_CIDR))  # type: ignore[arg-type]
    assert not pods.overlaps(ipaddress.ip_network(sandbox.SERVICE_CIDR))
    for name in ("ptp", "host-local", "loopback", "cilium-cni"):
        link = node.folder / "cni" / "bin" / name
        assert link.readlink() == tmp_path / "tools" / name
    node._cni()  # again: as it was


def test_the_policy_engine_is_chained_and_writes_the_network_itself(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is ready there is no network, so that no pod starts without its policies."""
    monkeypatch.setattr(paths, "cache", lambda: tmp_path / "cache")
    (tmp_path / "cache" / "debian-clang" / "usr" / "lib" / "llvm-19" / "bin").mkdir(parents=True)
    (tmp_path / "debian" / "usr" / "sbin" / "nft").touch()
    ran: list[list[str]] = []
    monkeypatch.setattr(Sandbox, "run", lambda self, argv, **_: ran.append(list(argv)))
    monkeypatch.setattr(Sandbox, "prefix", lambda self: [])
    monkeypatch.setattr(
        node.policies.daemon, "start", lambda argv, env: ran.append([*argv, env["PATH"]])
    )
    network = node._cni()
    stale = node.folder / "cni" / "conf" / "10-estate.conflist"
    stale.write_text("{}")
    (node.folder / "cilium").mkdir()
    node.policies.start(network, "node-0", tmp_path / "kubeconfig")
    assert not stale.exists()
    (_, _, rules), agent = ran
    assert "0x00000c00" in Path(rules).read_text()
    assert f"--write-cni-conf-when-ready={stale}" in agent
    assert "--enable-k8s-networkpolicy=false" not in agent
    assert any(str(tmp_path / "cache" / "debian-clang") in part for part in agent[-1].split(":"))
    (template,) = [part.partition("=")[2] for part in agent if part.startswith("--read-cni-conf=")]
    plugins = [one["type"] for one in json.loads(Path(template).read_text())["plugins"]]
    assert plugins == ["ptp", "cilium-cni"]
    gateway = [part for part in agent if part.startswith("--local-router-ipv4=")]
    assert gateway == ["--local-router-ipv4=10.244.0.1"]


def test_kube_proxy_leaves_the_hosts_limits_alone(node: Node) -> None:
    config = document(node._proxy())
    assert config["mode"] == "nftables"
    assert config["conntrack"]["maxPerCore"] == config["conntrack"]["min"] == 0
    assert config["healthzBindAddress"].startswith("127.0.0.1:")
    assert config["metricsBindAddress"].startswith("127.0.0.1:")
    kubeconfig = document(Path(config["clientConnection"]["kubeconfig"]))
    server = kubeconfig["clusters"][0]["cluster"]["server"]
    assert server == f"https://{sandbox.NODE_IP}:6443"


def test_the_same_content_is_not_written_again(node: Node) -> None:
    """The kube-proxy ends itself when its file is written."""
    file = node._proxy()
    before = file.stat().st_mtime_ns
    assert node._proxy() == file
    assert file.stat().st_mtime_ns == before


# -- certificates ----------------------------------------------------------------------------------


def load(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def test_the_nodes_certificate_is_the_clusters_and_serves_its_address(
    node: Node, tmp_path: Path
) -> None:
    file, key = node._issue(f"system:node:{NODE_NAME}", "system:nodes", server=True)
    certificate = load(file)
    certificate.verify_directly_issued_by(load(tmp_path / "pki" / "ca.crt"))
    subject = certificate.subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:node-0"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [NODE_NAME]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(sandbox.NODE_IP)]
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_client_can_not_serve_and_belongs_to_no_group_it_was_not_given(node: Node) -> None:
    certificate = load(node._issue("system:kube-proxy", None)[0])
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    assert certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME) == []


def test_a_certificate_is_kept_and_another_authoritys_is_not_trusted(
    node: Node, tmp_path: Path
) -> None:
    first = node._issue("user", None)[0]
    before = first.read_bytes()
    assert node._issue("user", None)[0].read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    authority(other)
    with pytest.raises(InvalidSignature):
        load(first).verify_directly_issued_by(load(other / "ca.crt"))


# -- right of the process, cgroups -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "may"),
    [
        ("Name:\tx\nCapEff:\t000001ffffffffff\n", True),
        ("CapEff:\t000001fffeffffff\n", False),
        ("CapEff:\t0000000000000000\n", False),
        ("", False),
    ],
)
def test_cap_sys_resource_is_read_from_the_kernel(
    monkeypatch: pytest.MonkeyPatch, status: str, may: bool
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: status)
    assert node_module._may_raise_oom_score() is may


def test_its_cgroups_are_made_and_removed_with_all_below(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hierarchies = [tmp_path / "cgroup" / name for name in ("cpu", "cpuset")]
    for folder in hierarchies:
        folder.mkdir(parents=True)
    cpuset = hierarchies[1]
    for file, value in (("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")):
        (cpuset / file).write_text(value)
        own = cpuset / "estate-box" / file
        own.parent.mkdir(exist_ok=True)
        own.write_text("")
    shares = hierarchies[0] / "estate-box" / "cpu.shares"
    shares.parent.mkdir()
    shares.write_text("1024")
    monkeypatch.setattr(node_module, "_hierarchies", lambda: hierarchies)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    node._make_cgroups()
    assert shares.read_text() == "3072"
    shares.unlink()
    assert (cpuset / "estate-box" / "cpuset.cpus").read_text() == "0-1\n"
    for file in ("cpuset.cpus", "cpuset.mems"):
        (cpuset / "estate-box" / file).unlink()  # the kernel's own go with their folder
    (hierarchies[0] / "estate-box" / "kubepods" / "pod").mkdir(parents=True)
    node.remove_cgroups()
    assert [sorted(folder.glob("estate*")) for folder in hierarchies] == [[], []]
    node.remove_cgroups()
