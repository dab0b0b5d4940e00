"""The pods of serving: what each container may, and what it cannot even read."""

from __future__ import annotations

import json

import pytest

from components.triton.pods import registry_settings
from components.triton.serving import _control_settings
from policies import model
from services.serving.settings import ControlSettings, SyncSettings
from tests.policies import broken
from tests.unit.components.triton.made import CONFIG, REGISTRY, made

SERVERS = [f"triton-{pool}-{track}" for pool in ("cpu", "gpu") for track in ("stable", "canary")]
API = "/var/run/secrets/kubernetes.io/serviceaccount"


def test_what_is_made() -> None:
    assert made().names("Deployment") == {*SERVERS, "inference", "serving-controller"}
    assert made().names("Service") == {*SERVERS, "inference"}
    assert made().names("ServiceAccount") == {"triton", "inference", "serving-controller"}
    for name in SERVERS:
        # The gateway balances over the pods themselves.
        assert made().get("Service", name)["spec"]["clusterIP"] == "None"


def test_it_keeps_every_policy() -> None:
    assert not broken(map(model.Subject, made().objects)) and len(made().objects) > 30


@pytest.mark.parametrize("name", SERVERS)
def test_triton_has_no_token_no_secret_and_writes_no_model(name: str) -> None:
    assert made().pod(name)["automountServiceAccountToken"] is False
    assert made().mounts(name, "triton") == {
        "repository": "/models/repository",
        "versions": "/models/versions",
        "shared-memory": "/dev/shm rw",
        "tmp": "/tmp rw",
    }
    assert "env" not in made().container(name, "triton")


@pytest.mark.parametrize("name", SERVERS)
def test_the_sidecar_has_what_it_needs_and_no_more(name: str) -> None:
    assert made().mounts(name, "sync") == {
        "repository": "/models/repository rw",
        "versions": "/models/versions rw",
        "sync-tmp": "/tmp rw",
        "api": API,
        "config": "/serving/config",
        "registry": "/serving/registry",
        "model-trust": "/serving/trust",
        "ca": "/serving/ca",
        "tls": "/serving/tls",
    }
    volumes = {one["name"]: one for one in made().pod(name)["volumes"]}
    assert volumes["registry"]["secret"]["secretName"] == "model-registry-reader"
    assert volumes["tls"]["secret"]["secretName"] == "triton-tls"
    assert "publisher" not in json.dumps(made().pod(name))
    token, ca = volumes["api"]["projected"]["sources"]
    assert token["serviceAccountToken"] == {"path": "token", "expirationSeconds": 3600}
    assert ca["configMap"]["name"] == "kube-root-ca.crt"


@pytest.mark.parametrize("name", [*SERVERS, "inference", "serving-controller"])
def test_every_container_is_confined(name: str) -> None:
    pod = made().pod(name)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["enableServiceLinks"] is False and pod["automountServiceAccountToken"] is False
    for one in pod["containers"]:
        security = one["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "@sha256:" in one["image"]


def test_only_the_gateway_has_no_token_at_all() -> None:
    assert "api" not in made().mounts("inference", "gateway")
    assert made().mounts("serving-controller", "controller")["api"] == API


def test_ports() -> None:
    def ports(deployment: str, name: str) -> dict[str, int]:
        found = made().container(deployment, name)["ports"]
        return {one["name"]: one["containerPort"] for one in found}

    for name in SERVERS:
        assert ports(name, "triton") == {"http": 8000, "grpc": 8001, "metrics": 8002}
        assert ports(name, "sync") == {"sync": 8080}
        args = made().container(name, "triton")["args"]
        for arg in ("--http-port=8000", "--grpc-port=8001", "--metrics-port=8002"):
            assert arg in args
        assert "--model-control-mode=explicit" in args and "--strict-readiness=false" in args
        assert "--model-repository=/models/repository" in args
    assert ports("inference", "gateway") == {"clients": 8443, "runtime": 9998, "metrics": 8405}
    assert ports("serving-controller", "controller") == {"control": 8081}


def test_requests_come_when_models_are_there_and_go_before_the_pod() -> None:
    for name in SERVERS:
        triton, sync = made().container(name, "triton"), made().container(name, "sync")
        assert sync["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert sync["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
        # A registry that is away must end no sidecar: what is served goes on being served.
        assert sync["livenessProbe"]["httpGet"]["path"] == "/healthz"
        lives = triton["livenessProbe"]["httpGet"]
        # A canary serves nobody else: one that a version hangs begins anew.
        asked = ("/triton", 8080) if "canary" in name else ("/v2/health/live", "http")
        assert (lives["path"], lives["port"]) == asked
        grace = made().pod(name)["terminationGracePeriodSeconds"]
        wait = triton["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert grace >= wait + CONFIG.request_timeout_s
        assert f"--exit-timeout-secs={CONFIG.request_timeout_s}" in triton["args"]
        rolling = made().get("Deployment", name)["spec"]["strategy"]["rollingUpdate"]
        assert rolling == {"maxUnavailable": 0, "maxSurge": 1}
    strategy = made().get("Deployment", "serving-controller")["spec"]["strategy"]
    assert strategy == {"type": "Recreate"}, "two would take steps twice"


def test_a_pool_of_slices_of_a_gpu() -> None:
    for name in SERVERS:
        gpu = "gpu" in name
        triton = made().container(name, "triton")
        assert ("nvidia.com/mig-1g.10gb" in json.dumps(triton["resources"])) is gpu
        assert ("nodeSelector" in made().pod(name)) is gpu
        assert ("tolerations" in made().pod(name)) is gpu
        assert triton["image"].startswith(f"registry.example/{'native' if gpu else 'triton'}")
        cache = [arg for arg in triton["args"] if arg.startswith("--cache-config")]
        assert ("--rate-limit=execution_count" in triton["args"]) is gpu
        assert cache == ([] if gpu else [f"--cache-config=local,size={64 << 20}"])
        assert "mig" not in json.dumps(made().container(name, "sync")["resources"])


def test_pods_are_found_by_the_labels_that_the_controller_asks_for() -> None:
    for pool in ("cpu", "gpu"):
        for track in ("stable", "canary"):
            spec = made().get("Deployment", f"triton-{pool}-{track}")["spec"]
            labels = spec["template"]["metadata"]["labels"]
            assert labels["estate.dev/pool"] == pool and labels["estate.dev/track"] == track
            for key, value in spec["selector"]["matchLabels"].items():
                assert labels[key] == value


def test_programs_understand_their_settings() -> None:
    for pool in CONFIG.pools:
        for track in ("stable", "canary"):
            text = made().get("ConfigMap", f"triton-{pool.name}-{track}-config")
            read = SyncSettings.model_validate_json(text["data"]["settings.json"])
            assert (read.pool, read.track, read.native) == (pool.name, track, pool.native)
            assert read.registry.url == REGISTRY
            mounts = made().mounts(f"triton-{pool.name}-{track}", "sync").values()
            for place in (read.registry.ca, read.registry.trust, read.server.key):
                assert place is not None and str(place.parent) in mounts
            assert f"{read.repository} rw" in mounts and f"{read.versions} rw" in mounts
    text = made().get("ConfigMap", "serving-controller-config")["data"]["settings.json"]
    control = ControlSettings.model_validate_json(text)
    assert control == _control_settings(CONFIG, registry_settings(REGISTRY, public=False))
    assert control.pools == ("cpu", "gpu")
    mounts = made().mounts("serving-controller", "controller").values()
    for place in (control.ca, control.client_key, control.registry.username):
        assert str(place.parent) in mounts
