"""The model registry's configuration: what is refused, and what Nexus needs of PostgreSQL."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from components.model_repository.config import EcrConfig, ModelRepositoryConfig
from configs.errors import ConfigError
from configs.schema import load
from model_repo.repository import place
from tests.rendering import ONPREM

PUBLIC = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
VALUES: dict[str, Any] = {
    "publisher": {"file": "models/publisher"},
    "reader": {"file": "models/reader"},
    "trusted_keys": [{"pem": PUBLIC}],
}
NEXUS: dict[str, Any] = {"admin": {"file": "models/admin"}}
ECR: dict[str, Any] = {
    "account": "123456789012",
    "region": "eu-central-1",
    "publisher": "arn:aws:iam::123456789012:role/ci/publisher",
    "reader": "arn:aws:iam::123456789012:role/models-reader",
}
ECR_VALUES: dict[str, Any] = {
    "implementation": "ecr",
    "trusted_keys": VALUES["trusted_keys"],
    "ecr": ECR,
}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"implementation": "nexus"}, r"declare model_repository\.nexus"),
        ({"nexus": NEXUS}, "of another implementation than distribution"),
        ({"ecr": ECR}, "ecr is 'declared': of another implementation than distribution"),
        ({"publisher": None}, "publisher is 'missing': say where the password"),
        ({"trusted_keys": []}, "at least 1 item"),
        ({"trusted_keys": [{}]}, "either pem .* or reference"),
        ({"trusted_keys": [{"pem": PUBLIC, "reference": {"file": "a"}}]}, "either pem"),
        ({"trusted_keys": [{"pem": PUBLIC.replace("PUBLIC", "PRIVATE")}]}, "should match pattern"),
        (
            {"implementation": "nexus", "nexus": {**NEXUS, "heap_mib": 4096}},
            r"at least 8704: twice heap_mib \(4096\)",
        ),
    ],
)
def test_what_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelRepositoryConfig.model_validate({**VALUES, **values})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ecr": None}, r"ecr is 'missing': its account.*declare model_repository\.ecr"),
        ({"nexus": NEXUS}, "nexus is 'declared': of another implementation than ecr; leave it out"),
        ({"reader": {"file": "a"}}, "reader is 'declared': of a registry in the cluster; leave"),
        ({"publisher": {"file": "a"}}, "publisher is 'declared'"),
        ({"storage": {"size_gib": 10}}, "storage is 'declared'"),
        ({"resources": {"cpu_request_m": 20}}, "resources is 'declared'"),
        ({"proxy_resources": {"cpu_request_m": 20}}, "proxy_resources is 'declared'"),
    ],
)
def test_ecr_takes_nothing_that_only_a_registry_in_the_cluster_has(
    values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelRepositoryConfig.model_validate({**ECR_VALUES, **values})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("account", "12345678901", "should match pattern"),
        ("account", 123456789012, "valid string"),
        ("region", "Frankfurt", "should match pattern"),
        ("prefix", "/estate", "should match pattern"),
        ("publisher", "*", "should match pattern"),
        ("publisher", "arn:aws:iam::123456789012:root", "should match pattern"),
        ("publisher", "arn:aws:iam::123456789012:role/*", "should match pattern"),
        ("publisher", "arn:aws:iam::*:role/publisher", "should match pattern"),
        # EKS gives roles to service accounts, never users.
        ("reader", "arn:aws:iam::123456789012:user/reader", "should match pattern"),
        ("reader", ECR["publisher"], "take two principals"),
        ("expire_untagged_days", -1, "greater than or equal to 0"),
        ("lifecycle", {}, "Extra inputs are not permitted"),
    ],
)
def test_what_is_refused_of_ecr(key: str, value: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelRepositoryConfig.model_validate({**ECR_VALUES, "ecr": {**ECR, key: value}})


def test_where_ecr_is() -> None:
    def at(**changes: str) -> EcrConfig:
        return EcrConfig.model_validate({**ECR, **changes})

    assert at().url == "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    assert at(prefix="a/b").url.endswith(".amazonaws.com/a/b")
    assert at(prefix="a/b").repository("digits") == f"a/b/{place('digits')}"
    assert at().repository("digits") == place("digits")
    assert at(region="cn-north-1").host.endswith(".dkr.ecr.cn-north-1.amazonaws.com.cn")
    assert at(region="us-gov-west-1").host.endswith(".us-gov-west-1.amazonaws.com")


def test_a_rehearsal_has_no_ecr() -> None:
    values = {"images": {"source": "rehearsal"}, "model_repository": ECR_VALUES}
    with pytest.raises(ConfigError, match="a rehearsal has no AWS: take `distribution`"):
        load(values)


def test_somebody_must_look_at_the_age_of_ecr_s_token() -> None:
    values = onprem()
    del values["backup"]
    values["model_repository"] = copy.deepcopy(ECR_VALUES)
    load(values)
    del values["monitoring"]["state_metrics"]
    with pytest.raises(ConfigError, match=r"the age of the registry's token \(ECR\)\? declare it"):
        load(values)


def onprem() -> dict[str, Any]:
    return copy.deepcopy(ONPREM)


def test_nexus_needs_its_database() -> None:
    values = onprem()
    values["postgres"]["databases"].pop()
    with pytest.raises(ConfigError, match=r"database 'nexus' \(model_repository\.nexus\) is miss"):
        load(values)


def test_nexus_needs_the_extension_that_it_searches_by() -> None:
    values = onprem()
    values["postgres"]["databases"][-1].pop("extensions")
    with pytest.raises(ConfigError, match="lacks extension 'pg_trgm'"):
        load(values)


def test_nexus_needs_postgres() -> None:
    values = onprem()
    for part in ("postgres", "pgpool", "mongodb", "pipeline", "console", "backup"):
        values.pop(part)
    with pytest.raises(ConfigError, match="Nexus keeps its records in PostgreSQL"):
        load(values)


def test_a_rehearsal_has_no_nexus() -> None:
    values = {
        "images": {"source": "rehearsal"},
        "model_repository": {**VALUES, "implementation": "nexus", "nexus": NEXUS},
    }
    with pytest.raises(ConfigError, match="take `distribution`"):
        load(values)
