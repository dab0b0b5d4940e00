from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.errors import ConfigError
from configs.schema import CONFIG_KEY, immutable_keys, load, secret_refs
from tests.rendering import ONPREM

FILE = Path(__file__).parents[3] / "configs" / "Pulumi.local.yaml"
Values = dict[str, Any]
LEAKED = "hunter2-S3cret"


@pytest.fixture
def values() -> Values:
    found: Values = yaml.safe_load(FILE.read_text(encoding="utf-8"))["config"][CONFIG_KEY]
    return copy.deepcopy(found)


def problems(values: Values) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(values, name="configs/Pulumi.test.yaml")
    return caught.value.lines


def test_the_committed_environment_is_valid_and_declares_the_core() -> None:
    environment = load(FILE)
    assert environment.kafka is not None
    assert environment.kafka.brokers == environment.kafka.replication_factor == 3
    assert environment.mosquitto is not None
    assert {"device", "bridge", "verify"} <= {user.name for user in environment.mosquitto.users}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda v: v["kafka"].update(brokerz=3),
            "kafka.brokerz: unknown key; did you mean kafka.brokers?",
        ),
        (lambda v: v.update(kafak={}), "kafak: unknown key; did you mean kafka?"),
        (
            lambda v: v["waivers"].update(probe="because it is only a test"),
            "waivers.probe: 'probe' is not allowed: no such policy; there are pod-security",
        ),
        (
            lambda v: v["waivers"].update(probes="because"),
            "waivers.probes: 'because' is not allowed: a waiver needs a reason",
        ),
        (
            lambda v: v["kafka"]["storage"].update(size_gb=2),
            "kafka.storage.size_gb: unknown key; did you mean kafka.storage.size_gib?",
        ),
        (
            lambda v: v["kafka"].update(brokers=1),
            "kafka.brokers: 1 is not allowed: at least replication_factor (3)",
        ),
        (lambda v: v["kafka"].update(brokers="3"), "kafka.brokers: '3' is not allowed"),
        (
            lambda v: v["serving"]["pools"][0].update(native=True),
            "serving.pools.0.native: True is not allowed: no package has NVIDIA's image",
        ),
        (
            lambda v: v["serving"]["pools"][0].update(autoscaling={"max_replicas": 4}),
            "serving.pools.0.autoscaling: 'declared' is not allowed: no package has KEDA's images",
        ),
        (
            lambda v: v["kafka"].update(min_insync_replicas=3),
            "kafka.min_insync_replicas: 3 is not allowed: below replication_factor (3)",
        ),
        (
            lambda v: v["kafka"].update(heap_mib=800),
            "kafka.resources.memory_limit_mib: 896 is not allowed",
        ),
        (lambda v: v["kafka"].pop("cluster_id"), "kafka.cluster_id: None is not allowed: 22"),
        (
            lambda v: v["kafka"].update(implementation="strimzi", cluster_id=None),
            "kafka.implementation: 'strimzi' is not allowed: no package has Strimzi's operator",
        ),
        (
            lambda v: v["kafka"]["topics"].append({"name": "sensors.raw"}),
            "kafka.topics.7.name: 'sensors.raw' is not allowed: declared twice",
        ),
        (
            lambda v: v["kafka"]["topics"].append({"name": "sensors_raw"}),
            "kafka.topics.7.name: 'sensors_raw' is not allowed: collides with 'sensors.raw'",
        ),
        (
            lambda v: v["kafka"]["users"][0]["grants"][0].update(topic="sensor.raw"),
            "kafka.users.0.grants.0.topic: 'sensor.raw' is not allowed: a declared topic",
        ),
        (lambda v: v["kafka"]["users"][1].update(name="kafka-admin"), "super user by certificate"),
        (
            lambda v: v["mosquitto"]["users"].append(v["mosquitto"]["users"][0]),
            "mosquitto.users.5.name",
        ),
        (
            lambda v: v["mosquitto"]["users"][0]["acl"][0].update(topic="a/#/b"),
            "mosquitto.users.0.acl.0.topic: 'a/#/b' is not allowed: `#` stands alone",
        ),
        (lambda v: v.pop("postgres"), "pgpool: 'declared' is not allowed"),
    ],
)
def test_a_problem_names_file_key_value_and_way_out(
    values: Values, change: Callable[[Values], Any], expected: str
) -> None:
    change(values)
    found = problems(values)
    assert any(expected in line for line in found), found
    assert all(line.startswith("configs/Pulumi.test.yaml: ") for line in found)
    assert all("\n" not in line for line in found)


def test_all_problems_are_reported_at_once(values: Values) -> None:
    values["kafka"]["brokerz"] = 1
    values["mosquitto"]["storage"] = {"size_gib": 0}
    assert len(problems(values)) == 2


def test_a_password_in_place_of_a_reference_is_not_repeated(values: Values) -> None:
    values["kafka"]["users"][0]["password"] = "hunter2"
    assert "hunter2" not in "\n".join(problems(values))
    values["kafka"]["users"][0]["password"] = {"env": "X", "file": "y"}
    assert "exactly one source" in "\n".join(problems(values))


@pytest.mark.parametrize(
    ("password", "words"),
    [
        (
            {"vault": {"path": "a", "key": "b", "file": "c"}},
            "vault.file: unknown key; allowed here: key",
        ),
        ({"vault": {"path": "/hunter2", "key": "b"}}, "vault.path: (a hidden value)"),
        ({"vault": {"path": "a"}}, "vault.key: missing"),
        ({"vault": "hunter2"}, "password.vault: (a hidden value)"),
        ({"aws": {"secret_id": "a", "kee": "b"}}, "aws.(a hidden key): unknown key; did you mean"),
        ({"aws": {"secret_id": "a"}, "env": "B"}, "env, file, vault, aws or pulumi; got env, aws"),
    ],
)
def test_a_mistyped_reference_is_named_without_its_values(
    values: Values, password: dict[str, Any], words: str
) -> None:
    values["kafka"]["users"][0]["password"] = password
    (line,) = problems(values)
    assert words in line and "hunter2" not in line


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["kafka"].update(users={"bridge": LEAKED}),
        lambda v: v["kafka"]["users"].__setitem__(0, f"bridge:{LEAKED}"),
        lambda v: v["postgres"].update(owner=LEAKED),
        lambda v: v["postgres"].update(owner=["estate", LEAKED]),
        lambda v: v.update(kafka=[{"users": [{"password": LEAKED}]}]),
        lambda v: v["kafka"]["users"][0].update(password={LEAKED: ""}),
        lambda v: v["kafka"]["users"][0].update(password={"vault": {LEAKED: ""}}),
        lambda v: v["kafka"]["users"][0].update(password={"file": f"/{LEAKED}"}),
        lambda v: v["kafka"]["users"][0].update(password={"file": f"a/../{LEAKED}"}),
        lambda v: v["kafka"]["users"][0].update(password={"env": LEAKED}),
        lambda v: v["kafka"]["users"][0].update(password={"pulumi": f"{LEAKED}!"}),
        lambda v: v["kafka"].update(brokers=f"https://me:{LEAKED}@far.example"),
        lambda v: v["kafka"].update(brokers=[LEAKED]),
    ],
)
def test_a_password_in_another_place_is_not_repeated_either(
    values: Values, change: Callable[[Values], Any]
) -> None:
    change(values)
    found = problems(values)
    assert found and LEAKED not in "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        f"config: {{{CONFIG_KEY}: [{{password: LEAKED}}]}}",
        f"config: {{{CONFIG_KEY}: LEAKED}}",
        f"config: {{{CONFIG_KEY}: {{password: !LEAKED x}}}}",
        f"config: {{{CONFIG_KEY}: {{password: *LEAKED}}}}",
    ],
)
def test_a_file_that_is_no_environment_is_not_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "Pulumi.test.yaml"
    file.write_text(text.replace("LEAKED", LEAKED))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert LEAKED not in str(caught.value)


def test_a_reference_to_vault_or_aws_reads_as_it_is_written(values: Values) -> None:
    for password, words in (
        (
            {"vault": {"path": "data-lake/kafka", "key": "admin"}},
            "vault secret/data-lake/kafka#admin",
        ),
        ({"aws": {"secret_id": "estate/kafka", "key": "admin"}}, "aws estate/kafka#admin"),
        ({"aws": {"secret_id": "estate/kafka"}}, "aws estate/kafka"),
    ):
        values["kafka"]["users"][0]["password"] = password
        assert dict(secret_refs(load(values)))["kafka.users.0.password"].source == words


def test_immutable_keys_name_what_would_lose_data() -> None:
    keys = immutable_keys(load(FILE))
    assert keys["kafka.cluster_id"] == "ZXN0YXRlLXJlaGVhcnNhbA"
    assert "kafka.storage.size_gib" in keys
    assert "kafka.heap_mib" not in keys


def test_secret_references_are_found_with_their_paths() -> None:
    refs = dict(secret_refs(load(FILE)))
    assert refs["kafka.users.0.password"].file == "kafka/bridge"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("config: [", "Pulumi.x.yaml:1:10: not YAML"),
        ("config: {}", f"config.{CONFIG_KEY}: None is not allowed: a mapping is required"),
        ("", f"x.yaml: empty; it needs config.{CONFIG_KEY}"),
        ("- a", "x.yaml: a list; a mapping is needed"),
        ("password: x", "x.yaml: password: unknown key; allowed here: config, secretsprovider"),
        ("config: {kubernetes:password: x}", "a mapping is required"),
        (
            "config: {estate:environment: {}, kubernetes:password: x}",
            "config.kubernetes:password: unknown key; beside estate:environment stand only",
        ),
        ("config: {? [a, b] : 1}", "x.yaml:1:12: not YAML: a key that is no text"),
        ("config: {? {a: b} : 1}", "a key that is no text; put it in quotes"),
        ("config: {1: 2}", "a key that is no text; put it in quotes"),
        ("a: &a {b: 1}\nconfig: {<<: *a}", "x.yaml:2:10: not YAML: merge keys (<<)"),
        ('config: {"a\\nb": 1}', "a key with a line break or a control character"),
        ("config: " + "[" * 3000 + "]" * 3000, "x.yaml: nested too deeply to be read"),
        ("config: {estate:environment: {a: .inf}}", "a: a number beyond 2^53"),
        (
            f"config: {{estate:environment: {{kafka: {{storage: {{size_gib: {10**29}}}}}}}}}",
            "kafka.storage.size_gib: a number beyond 2^53",
        ),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert len(caught.value.lines) == 1
    assert expected in caught.value.lines[0]


def test_a_missing_file_names_the_environments_there_are(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.local.yaml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="no such file; environments here: local"):
        load(tmp_path / "Pulumi.lokal.yaml")


def test_resources_keep_the_defaults_of_what_is_left_out(values: Values) -> None:
    before = load(values).mosquitto
    values["mosquitto"]["resources"] = {"memory_limit_mib": 160}
    after = load(values).mosquitto
    assert before is not None and after is not None
    changed = before.resources.model_copy(update={"memory_limit_mib": 160})
    assert after.resources == changed != before.resources
    values["mosquitto"]["resources"] = {"memory_limit_mib": 4}
    assert "mosquitto.resources" in problems(values)[0]
    values["mosquitto"]["resources"] = {"memory": 4}
    assert "mosquitto.resources.memory: unknown key" in problems(values)[0]


def test_a_mistyped_top_key_is_named_with_the_right_one(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.test.yaml"
    file.write_text("config:\n  estate:enviroment: {}\n")
    with pytest.raises(ConfigError, match=r"config\.estate:enviroment: unknown key; did you mean"):
        load(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "config:\n  estate:environment:\n    kafka: {brokers: 3, brokers: 5}\n",
            r"test\.yaml:3:25: not YAML: key 'brokers' twice in one mapping; remove one",
        ),
        ("config:\n  estate:environment: {}\n  estate:environment: {}\n", "twice"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "Pulumi.test.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(file)


def test_a_key_beside_the_environment_must_be_a_secret_of_it(
    tmp_path: Path, values: Values
) -> None:
    file = tmp_path / "Pulumi.test.yaml"
    file.write_text(yaml.safe_dump({"config": {CONFIG_KEY: values, "estate:device": {}}}))
    with pytest.raises(ConfigError, match=r"config\.estate:device: unknown key"):
        load(file)
    values["mosquitto"]["users"][0]["password"] = {"pulumi": "device"}
    secure = {"secure": "v1:abc="}
    file.write_text(yaml.safe_dump({"config": {CONFIG_KEY: values, "estate:device": secure}}))
    assert load(file).mosquitto is not None


@pytest.mark.parametrize("value", [LEAKED, {"secure": ""}, {"secure": "x", "plain": LEAKED}, None])
def test_a_secret_of_pulumi_must_be_encrypted(tmp_path: Path, values: Values, value: Any) -> None:
    file = tmp_path / "Pulumi.test.yaml"
    values["mosquitto"]["users"][0]["password"] = {"pulumi": "device"}
    file.write_text(yaml.safe_dump({"config": {CONFIG_KEY: values, "estate:device": value}}))
    with pytest.raises(ConfigError, match=r"device: in clear.*config set --secret") as caught:
        load(file)
    assert LEAKED not in str(caught.value)


def test_a_mistyped_key_comes_before_what_is_missing_for_it(values: Values) -> None:
    storage = values["kafka"]["storage"]
    storage["size_gb"] = storage.pop("size_gib")
    first, second = problems(values)
    assert "size_gb: unknown key; did you mean kafka.storage.size_gib?" in first
    assert "size_gib: missing" in second


def test_reading_an_environment_needs_no_sdk() -> None:
    code = "import sys, configs.schema; print(*{'pulumi', 'pulumi_kubernetes'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    root = FILE.parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda v: v["serving"]["pools"][1]["resources"].update(gpus=8),
            "serving.pools.1.resources.gpus: 8 is not allowed: no node has so many",
        ),
        (
            lambda v: v["serving"]["pools"][2].update(mig="3g.40gb"),
            "serving.pools.2.mig: '3g.40gb' is not allowed: no node has such slices; `nodes` have ",
        ),
        (
            lambda v: v["nodes"][1].update(mig={"1g10gb": 7}),
            "nodes.1.mig.1g10gb",
        ),
        (
            lambda v: v.pop("monitoring"),
            "serving.pools.0.autoscaling: 'declared' is not allowed: it goes by what Prometheus ",
        ),
        (
            lambda v: v.pop("model_repository"),
            "serving: 'declared' is not allowed: its models come from a registry; declare ",
        ),
    ],
)
def test_serving_fits_the_nodes_and_what_it_stands_on(
    change: Callable[[Values], object], expected: str
) -> None:
    values = copy.deepcopy(ONPREM)
    for part in ("backup",):  # it has needs of its own, which would be named first
        values.pop(part)
    change(values)
    assert any(
        line.startswith(f"configs/Pulumi.test.yaml: {expected}") for line in problems(values)
    )
