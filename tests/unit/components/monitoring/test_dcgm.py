"""DCGM's exporter: what it may, what it reads, and what is said of its GPUs."""

from __future__ import annotations

import asyncio
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs

from components.authority import Authority
from components.model import Image
from components.monitoring.config import DcgmConfig
from components.monitoring.dcgm import COUNTERS, PROFILING, Dcgm
from components.monitoring.dcgm_rules import OF_PROGRAMS, dcgm_rules
from policies import model
from tests.policies import broken
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

IMAGE = Image(repository="registry.example/dcgm", tag="1", digest="sha256:" + "a" * 64)


class Made:
    def __init__(self, **changes: Any) -> None:
        recorder = Recorder()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        pulumi.runtime.set_mocks(recorder, preview=False)
        self.component = Dcgm(
            "dcgm-exporter",
            DcgmConfig.model_validate(changes),
            namespace="gpu",
            image=IMAGE,
            authority=Authority(),
        )
        loop.run_until_complete(wait_for_rpcs())
        loop.close()
        self.objects: list[dict[str, Any]] = [plain(item) for item in recorder.made]

    def get(self, kind: str) -> dict[str, Any]:
        (found,) = [one for one in self.objects if one["kind"] == kind]
        return found

    @property
    def pod(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("DaemonSet")["spec"]["template"]["spec"]
        return found

    @property
    def container(self) -> dict[str, Any]:
        (found,) = self.pod["containers"]
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


def test_it_runs_on_every_node_with_a_gpu_and_on_no_other(made: Made) -> None:
    assert made.pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert [one["key"] for one in made.pod["tolerations"]] == ["nvidia.com/gpu"]
    assert made.pod["runtimeClassName"] == "nvidia"
    env = {one["name"]: one.get("value") for one in made.container["env"]}
    assert env["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert not any("nvidia" in key for key in made.container["resources"]["limits"]), (
        "what it watches stays free for others"
    )


def test_it_has_no_capability_unless_it_is_to_profile(made: Made) -> None:
    security = made.container["securityContext"]
    assert security["capabilities"]["drop"] == ["ALL"]
    assert security["capabilities"].get("add") is None
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    profiling = Made(profiling=True).container["securityContext"]
    assert profiling["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
    assert profiling["allowPrivilegeEscalation"] is False


def test_of_the_node_it_sees_the_kubelets_socket_alone_and_reads_only(made: Made) -> None:
    paths = [one["hostPath"]["path"] for one in made.pod["volumes"] if "hostPath" in one]
    assert paths == ["/var/lib/kubelet/pod-resources"]
    mounts = {one["name"]: one for one in made.container["volumeMounts"]}
    assert mounts["pod-resources"]["readOnly"] is True
    assert made.pod["automountServiceAccountToken"] is False


def test_its_objects_keep_the_policies_of_a_privileged_namespace(made: Made) -> None:
    subjects = [model.Subject(one, level="privileged") for one in made.objects]
    assert not broken(subjects)


@pytest.mark.parametrize("profiling", [False, True])
def test_the_file_of_counters_is_as_the_exporter_reads_it(profiling: bool) -> None:
    made = Made(profiling=profiling)
    lines = made.get("ConfigMap")["data"]["counters.csv"].splitlines()
    rows = [line.split(",") for line in lines]
    # Field, type, help: a comma more, and the exporter ends with an error.
    assert all(len(row) == 3 for row in rows), rows
    fields = [row[0].strip() for row in rows]
    assert set(fields) == {*COUNTERS, *(PROFILING if profiling else ())}
    assert {row[1].strip() for row in rows} == {"gauge", "counter", "label"}
    assert "--collectors=/etc/estate/dcgm/counters.csv" in made.container["args"]


@pytest.mark.parametrize("profiling", [False, True])
def test_alerts_and_panels_ask_for_counters_that_are_read(profiling: bool) -> None:
    made = Made(profiling=profiling)
    read = {*COUNTERS, *(PROFILING if profiling else ())}
    (dashboard,) = made.component.dashboards
    asked = " ".join(rule["expr"] for rule in dcgm_rules(DcgmConfig(profiling=profiling)))
    asked += " ".join(
        query
        for _, panels in dashboard.rows()
        for panel in panels
        for query in panel.queries.values()
    )
    named = {word.partition("{")[0].lstrip("(") for word in asked.split() if "DCGM_" in word}
    found = {name[name.index("DCGM_") :].partition("{")[0] for name in named}
    assert found and found <= read


def test_it_is_scraped_by_tls(made: Made) -> None:
    (endpoint,) = made.get("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] in made.get("Certificate")["spec"]["dnsNames"]
    # Else the pod that has a GPU would stand for the exporter's own.
    assert "honorLabels" not in endpoint
    (flow,) = made.component.flows
    assert flow.ports == [9400]


def test_errors_of_programs_are_no_alert() -> None:
    (rule,) = [one for one in dcgm_rules(DcgmConfig()) if one["alert"] == "GpuError"]
    assert all(f"|{number}" in rule["expr"] for number in OF_PROGRAMS)
