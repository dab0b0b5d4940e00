"""The model registry by both implementations: doors, secrets, flows, trust, what its faults do."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pulumi
import pytest
from pulumi.runtime.stack import wait_for_rpcs

from components.authority import Authority
from components.checks import Check
from components.datalake.postgres import Postgres
from components.datalake.postgres_config import PostgresDatabase
from components.flows import OUTSIDE, PROMETHEUS, Pods
from components.model import Image
from components.model_repository import distribution_files as files
from components.model_repository.config import USERS, ModelRepositoryConfig
from components.model_repository.distribution import Distribution
from components.model_repository.nexus import Nexus
from components.model_repository.nexus_files import store_properties
from components.model_repository.registry import Registry, _bundle
from components.model_repository.repository import ModelRepository
from policies import model
from tests.policies import broken
from tests.unit.components.datalake.test_postgres_resources import Recorder, plain

PUBLIC = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
VALUES: dict[str, Any] = {
    "publisher": {"file": "models/publisher"},
    "reader": {"file": "models/reader"},
    "trusted_keys": [{"pem": PUBLIC}],
}
SECRETS = {
    "publisher": "secret-of-the-publisher",
    "reader": "secret-of-the-reader",
    "admin": "secret-of-the-admin",
    "database": "secret-of-the-database",
}
DATABASE = PostgresDatabase(name="nexus", owner="nexus", extensions=["pg_trgm"])
ASKS = Pods(name="triton", namespace="serving", selector={"app": "triton"})


def image(key: str) -> Image:
    return Image(repository=f"registry.example/{key}", tag="1", digest="sha256:" + "a" * 64)


class _Postgres:
    """What Nexus takes of the cluster."""

    pods = Pods(name="postgres", namespace="datalake", selector={"cnpg.io/cluster": "postgres"})

    def host(self, service: str) -> str:
        return f"postgres-{service}.datalake.svc.cluster.local"


class Made:
    """The objects of an implementation, and the component."""

    def __init__(self, implementation: str) -> None:
        recorder = Recorder()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        pulumi.runtime.set_mocks(recorder, preview=False)
        secrets = {name: pulumi.Output.secret(value) for name, value in SECRETS.items()}
        common: dict[str, Any] = {
            "namespace": "serving",
            "image": image(implementation),
            "proxy_image": image("haproxy"),
            "passwords": {user: secrets[user] for user in USERS},
            "trusted": [PUBLIC, pulumi.Output.secret(PUBLIC.strip())],
            "authority": Authority(),
            "monitors": [],
        }
        self.component: Registry
        if implementation == "nexus":
            nexus = {"admin": {"file": "models/admin"}}
            values = {**VALUES, "implementation": "nexus", "nexus": nexus}
            postgres: Any = _Postgres()
            assert not isinstance(postgres, Postgres)
            self.component = Nexus(
                "model-registry",
                ModelRepositoryConfig.model_validate(values),
                admin_image=image("admin"),
                admin_password=secrets["admin"],
                postgres=postgres,
                database=DATABASE,
                database_password=secrets["database"],
                databases=[],
                **common,
            )
        else:
            config = ModelRepositoryConfig.model_validate(VALUES)
            self.component = Distribution("model-registry", config, **common)
        loop.run_until_complete(wait_for_rpcs())
        loop.close()
        self.objects: list[dict[str, Any]] = [plain(item) for item in recorder.made]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        return found

    def pod(self) -> dict[str, Any]:
        found = self.get("StatefulSet", "model-registry")["spec"]["template"]["spec"]
        assert isinstance(found, dict)
        return found

    def container(self, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.pod()["containers"] if one["name"] == name]
        assert isinstance(found, dict)
        return found

    def haproxy(self) -> str:
        return str(self.get("ConfigMap", "model-registry-proxy")["data"]["haproxy.cfg"])

    def check(self, name: str) -> Check:
        (found,) = [one for one in self.component.checks if one.id == f"model-registry.{name}"]
        return found


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    yield Made("distribution")


@pytest.fixture(scope="module")
def nexus() -> Iterator[Made]:
    yield Made("nexus")


@pytest.fixture(params=["made", "nexus"])
def either(request: pytest.FixtureRequest) -> Made:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Made)
    return found


def test_what_it_makes_keeps_every_policy(either: Made) -> None:
    assert not broken(model.Subject(one, True) for one in either.objects)


def test_secrets_are_in_secrets_alone(either: Made) -> None:
    others = json.dumps([one for one in either.objects if one["kind"] != "Secret"])
    assert not [value for value in SECRETS.values() if value in others]


def test_its_users_get_addresses_secrets_and_flows(either: Made) -> None:
    repository = either.component.repository
    assert repository.reader_secret == "model-registry-reader"
    read, write = repository.read_by(ASKS), repository.published_by(ASKS)
    assert (read.target, read.ports, write.ports) == (either.component.pods, [5001], [5000])
    ports = either.get("Service", "model-registry")["spec"]["ports"]
    assert {one["name"]: one["port"] for one in ports}.items() >= {
        ("publish", 5000),
        ("read", 5001),
    }
    names = either.get("Certificate", "model-registry-tls")["spec"]["dnsNames"]
    assert "model-registry.serving.svc.cluster.local" in names


def test_one_outside_of_the_cluster_is_asked_outside() -> None:
    url = "https://registry.example"
    ecr = ModelRepository(
        publish_url=url,  # type: ignore[arg-type]
        read_url=url,  # type: ignore[arg-type]
        secrets={},
        ready=[],
        authority=None,
    )
    flow = ecr.read_by(ASKS)
    assert (flow.target, flow.ports) == (OUTSIDE, [443])


def test_the_keys_that_are_trusted_are_one_file(either: Made) -> None:
    assert either.get("ConfigMap", "model-trust")["data"] == {"signing.pub": PUBLIC * 2}


def test_a_private_key_is_never_shown() -> None:
    private = PUBLIC.replace("PUBLIC", "PRIVATE")
    with pytest.raises(ValueError, match="is a private key") as caught:
        _bundle([PUBLIC, private])
    assert "MFkw" not in str(caught.value)


def test_only_the_proxy_is_open_to_others(either: Made) -> None:
    open_ = {
        one["name"]: [port["containerPort"] for port in one.get("ports") or []]
        for one in either.pod()["containers"]
    }
    assert set(open_.pop("proxy")) >= {5000, 5001, 8405}
    assert not any(open_.values())
    bound = re.findall(r"^  bind (\S+) (\S+)", either.haproxy(), re.MULTILINE)
    assert bound and all(how == "ssl" for _, how in bound)


def test_prometheus_reads_by_the_name_in_the_certificate(either: Made) -> None:
    monitor = either.get("PodMonitor", "model-registry")["spec"]["podMetricsEndpoints"]
    assert {one["scheme"] for one in monitor} == {"https"}
    names = either.get("Certificate", "model-registry-tls")["spec"]["dnsNames"]
    assert {one["tlsConfig"]["serverName"] for one in monitor} <= set(names)
    flows = [flow for flow in either.component.flows if flow.source == PROMETHEUS]
    assert [flow.ports for flow in flows] == [[8405]]
    paths = [one["path"] for one in monitor]
    for path in paths:
        assert f" {path} " in either.haproxy() or f"{{ path {path} }}" in either.haproxy()


def config(door: str, **how: Any) -> Any:
    return json.loads(files.registry_config(door, **how))


def test_each_process_takes_its_own_user_on_the_loopback() -> None:
    for door, user in (("publish", "publisher"), ("read", "reader")):
        found = config(door)
        assert found["auth"]["htpasswd"]["path"] == f"/run/auth/{user}"
        assert found["http"]["addr"].startswith("127.0.0.1:")
        assert found["http"]["debug"]["addr"].startswith("127.0.0.1:"), "it has a profiler"
        assert found["http"]["relativeurls"], "it does not know by which address it is reached"


def test_who_reads_cannot_write_and_who_writes_can_delete(made: Made) -> None:
    read, publish = config("read")["storage"], config("publish")["storage"]
    assert read["maintenance"]["readonly"]["enabled"] and not read["delete"]["enabled"]
    assert not publish["maintenance"]["readonly"]["enabled"] and publish["delete"]["enabled"]
    assert "cache" not in read, "it would believe in what the other one has deleted"
    data = {
        door: next(m for m in made.container(door)["volumeMounts"] if m["name"] == "data")
        for door in files.BEHIND
    }
    assert data["read"]["readOnly"] and not data["publish"]["readOnly"]


def test_each_fault_breaks_what_its_check_says(made: Made) -> None:
    settings = made.get("ConfigMap", "model-registry-config")["data"]
    for name, key, difference in (
        ("round-trip", "publish.yaml", {"storage"}),
        ("read-only", "read.yaml", {"storage"}),
        ("password", "publish.yaml", {"auth"}),
    ):
        patch: Any = made.check(name).fault.patch["data"]
        assert list(patch) == [key]
        now, broken = json.loads(settings[key]), json.loads(patch[key])
        assert {one for one in now if now[one] != broken.get(one)} == difference


def test_nexus_reader_door_lets_no_write_through(nexus: Made) -> None:
    sections = re.split(r"\n(?=frontend|backend)", nexus.haproxy())
    doors = {one.split()[1]: one for one in sections if one.startswith("frontend")}
    assert "deny_status 405 unless { method GET HEAD }" in doors["read"]
    assert "deny_status" not in doors["publish"]


def test_each_fault_of_nexus_is_one_line_of_its_proxy(nexus: Made) -> None:
    now = nexus.haproxy().splitlines()
    for name in ("round-trip", "read-only", "password"):
        patch: Any = nexus.check(name).fault.patch["data"]
        broken = patch["haproxy.cfg"].splitlines()
        assert len(broken) == len(now) + 1 and set(now) <= set(broken)


def test_nexus_is_ready_before_it_has_its_repository(nexus: Made) -> None:
    ready = next(line for line in nexus.haproxy().splitlines() if "200 if { path /ready }" in line)
    assert re.findall(r"nbsrv\((\w+)\)", ready) == ["console"]


def test_nexus_keeps_its_records_in_postgres(nexus: Made) -> None:
    secret = nexus.get("Secret", "model-registry-store")["stringData"]
    lines = secret["nexus-store.properties"].splitlines()
    (url,) = [line for line in lines if line.startswith("jdbcUrl=")]
    assert "postgres-rw.datalake.svc.cluster.local:5432/nexus" in url
    assert "sslmode=verify-full" in url
    targets = [flow.target for flow in nexus.component.flows]
    assert _Postgres.pods in targets


def test_a_password_is_written_as_javas_properties_want_it() -> None:
    text = store_properties("h", 1, "d", "u", " a\\b")
    assert "password=\\ a\\\\b\n" in text


def test_the_setup_runs_again_when_it_or_a_password_changes(nexus: Made) -> None:
    job = nexus.get("Job", "model-registry-setup")["spec"]["template"]
    assert set(job["metadata"]["annotations"]) == {"estate.dev/settings", "estate.dev/passwords"}
    (volume,) = [one for one in job["spec"]["volumes"] if one["name"] == "users"]
    names = [one["secret"]["name"] for one in volume["projected"]["sources"]]
    assert names == [f"model-registry-{user}" for user in ("admin", *USERS)]
