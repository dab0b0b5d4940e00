"""What kwokctl is told, and what is written for kubectl."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from rehearsal import sandbox
from rehearsal.control_plane import PARTS, ControlPlane, port_free, write_kubeconfig
from rehearsal.errors import EstateError
from rehearsal.processes import wait_for
from rehearsal.sandbox import Direct, Sandbox


class Tools(dict[str, Path]):
    """A path for every tool."""

    def __missing__(self, name: str) -> Path:
        return Path("/tools") / name


API, OTHERS = 31440, 31450  # off the range that rehearsals take first


def plane(box: Sandbox | Direct, tools: Mapping[str, Path] | None = None) -> ControlPlane:
    box.folder.mkdir(parents=True, exist_ok=True)
    return ControlPlane(box, tools or Tools(), api_port=API, ports=OTHERS)


@pytest.fixture
def inside(tmp_path: Path) -> ControlPlane:
    return plane(Sandbox("inside", tmp_path / "inside", tmp_path))


@pytest.fixture
def direct(tmp_path: Path) -> ControlPlane:
    return plane(Direct("direct", tmp_path / "direct"))


def document(made: ControlPlane) -> dict[str, Any]:
    value = yaml.safe_load(made._configuration().read_text())
    assert isinstance(value, dict)
    return value


def arguments(made: ControlPlane, part: str) -> dict[str, str]:
    (patch,) = [p for p in document(made)["componentsPatches"] if p["name"] == part]
    return {extra["key"]: extra["value"] for extra in patch["extraArgs"]}


def test_everything_binds_to_loopback(direct: ControlPlane) -> None:
    """The default of kwokctl is every interface, etcd without authentication included."""
    assert document(direct)["options"]["bindAddress"] == "127.0.0.1"
    assert "bind-address" not in arguments(direct, "kube-apiserver")


def test_only_inside_the_sandbox_the_api_listens_for_pods(inside: ControlPlane) -> None:
    assert document(inside)["options"]["bindAddress"] == "127.0.0.1"
    api = arguments(inside, "kube-apiserver")
    assert api["bind-address"] == "0.0.0.0"
    assert api["advertise-address"] == sandbox.NODE_IP
    wide = [
        part
        for part in ("kube-controller-manager", "kube-scheduler", "kwok-controller")
        if "bind-address" in arguments(inside, part)
    ]
    assert wide == []


def test_every_port_is_its_own_and_stated(direct: ControlPlane) -> None:
    options = document(direct)["options"]
    ports = [value for key, value in options.items() if key.endswith("Port")]
    assert options["kubeApiserverPort"] == API
    assert sorted(ports) == [API, *range(OTHERS, OTHERS + 5)]


def test_every_part_is_ours_and_a_real_binary(direct: ControlPlane) -> None:
    options = document(direct)["options"]
    assert options["runtime"] == "binary" and options["disableQPSLimits"] is True
    binaries = {value for key, value in options.items() if key.endswith("Binary")}
    names = [name.replace("kwok-controller", "kwok") for name in PARTS] + ["kubectl"]
    assert binaries == {f"/tools/{name}" for name in names}


def test_a_missing_tool_is_not_passed_over(tmp_path: Path) -> None:
    made = plane(Direct("direct", tmp_path / "d"), {"etcd": Path("/tools/etcd")})
    with pytest.raises(KeyError, match="kube-apiserver"):
        made._configuration()


def test_the_certificate_serves_loopback_node_and_service(inside: ControlPlane) -> None:
    names = document(inside)["options"]["kubeApiserverCertSANs"]
    assert {"127.0.0.1", sandbox.NODE_IP, sandbox.API_SERVICE_IP, "kubernetes.default.svc"} <= set(
        names
    )


def test_patches_agree_on_networks_and_leave_the_real_node_alone(inside: ControlPlane) -> None:
    api, manager = (
        arguments(inside, "kube-apiserver"),
        arguments(inside, "kube-controller-manager"),
    )
    assert api["service-cluster-ip-range"] == manager["service-cluster-ip-range"]
    assert manager["cluster-cidr"] == sandbox.POD_CIDR
    assert manager["leader-elect"] == arguments(inside, "kube-scheduler")["leader-elect"] == "false"
    kwok = arguments(inside, "kwok-controller")
    assert kwok["manage-all-nodes"] == "false"
    assert kwok["manage-nodes-with-annotation-selector"] == "kwok.x-k8s.io/node=fake"
    for patch in document(inside)["componentsPatches"]:
        assert all(isinstance(extra["value"], str) for extra in patch["extraArgs"]), patch["name"]


def test_where_no_pod_runs_kwok_gets_the_stages_of_volumes(
    direct: ControlPlane, inside: ControlPlane
) -> None:
    stages = Path(arguments(direct, "kwok-controller")["config"])
    kinds = {value["kind"] for value in yaml.safe_load_all(stages.read_text()) if value}
    assert kinds <= {"Stage"} and kinds
    assert "config" not in arguments(inside, "kwok-controller")


def test_an_unfinished_creation_is_cleared_and_its_failure_is_one_line(
    tmp_path: Path,
) -> None:
    script = tmp_path / "kwokctl"
    script.write_text('#!/bin/sh\necho "$@" >> "$KWOK_WORKDIR.calls"\necho why >&2\nexit 1\n')
    script.chmod(0o755)
    tools = Tools({"kwokctl": script})
    made = plane(Direct("direct", tmp_path / "d"), tools)
    left = tmp_path / "d" / "kwok" / "half"
    left.mkdir(parents=True)
    with pytest.raises(EstateError, match=r"^control plane: why; see "):
        made.start()
    assert not left.exists()
    calls = (tmp_path / "d" / "kwok.calls").read_text().splitlines()
    assert [line.split()[1] for line in calls] == ["create", "delete"]


def test_what_exists_is_started_and_never_deleted(tmp_path: Path) -> None:
    script = tmp_path / "kwokctl"
    script.write_text('#!/bin/sh\necho "$@" >> "$KWOK_WORKDIR.calls"\nexit 1\n')
    script.chmod(0o755)
    made = plane(Direct("direct", tmp_path / "d"), Tools({"kwokctl": script}))
    settled = made.pki.parent / "kwok.yaml"
    settled.parent.mkdir(parents=True)
    settled.touch()
    with pytest.raises(EstateError, match=r"^control plane: no output"):
        made.start()
    calls = (tmp_path / "d" / "kwok.calls").read_text()
    assert "start cluster" in calls and "delete" not in calls
    assert settled.exists()


def test_what_runs_is_told_by_id_and_program(tmp_path: Path) -> None:
    made = plane(Direct("direct", tmp_path / "d"))
    assert made.running() == dict.fromkeys(PARTS, False)
    folder = made.pki.parent
    (folder / "pids").mkdir(parents=True)
    (folder / "bin").mkdir()
    program = folder / "bin" / "etcd"
    shutil.copy(str(shutil.which("sleep")), program)
    part = subprocess.Popen([program, "60"])
    try:
        assert wait_for(lambda: psutil.Process(part.pid).cmdline()[0] == str(program), 5)
        (folder / "pids" / "etcd.pid").write_text(f"{part.pid}\n")
        # The kernel gave this id to somebody else since.
        (folder / "pids" / "kwok-controller.pid").write_text(f"{os.getpid()}\n")
        (folder / "pids" / "kube-scheduler.pid").write_text("999999999")
        (folder / "pids" / "kube-apiserver.pid").write_text("no number")
        assert made.running() == {**dict.fromkeys(PARTS, False), "etcd": True}
    finally:
        part.kill()
        part.wait()


def test_a_port_taken_while_its_part_was_down_is_named(tmp_path: Path) -> None:
    made = plane(Direct("direct", tmp_path / "d"))
    made.pki.parent.mkdir(parents=True)
    (made.pki.parent / "kwok.yaml").touch()
    with (
        socket.create_server(("127.0.0.1", API)),
        pytest.raises(EstateError, match=rf"^port {API} \(kube-apiserver\): in use"),
    ):
        made.start()


def test_a_kubeconfig_is_its_users_alone(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    user = {"client-certificate": "a.crt", "client-key": "a.key"}
    write_kubeconfig(file, "https://127.0.0.1:16440", Path("/pki/ca.crt"), user)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    value = yaml.safe_load(file.read_text())
    assert value["current-context"] == value["contexts"][0]["name"] == "estate"
    assert value["clusters"][0]["cluster"] == {
        "server": "https://127.0.0.1:16440",
        "certificate-authority": "/pki/ca.crt",
    }
    assert value["users"] == [{"name": "estate", "user": user}]


def test_a_port_is_free_unless_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not port_free(port)
    assert port_free(port)
