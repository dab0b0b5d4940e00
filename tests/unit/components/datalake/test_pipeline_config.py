from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.datalake import pipeline_files as files
from components.datalake.pipeline_config import PipelineConfig
from configs.errors import ConfigError
from configs.schema import load
from rehearsal import paths

USERS = [{"name": "verify", "password": {"file": "pipeline/verify"}}]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"users": USERS * 2}, "declared twice"),
        (
            {"users": [{"name": "admin", "password": {"file": "pipeline/admin"}}]},
            "'verify' is missing",
        ),
        ({"users": USERS, "limits": {"near_bits": 4}}, "near_bits"),
        ({"users": USERS, "launcher": "celery"}, "launcher"),
    ],
)
def test_a_wrong_configuration_names_key_and_way_out(values: Any, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        PipelineConfig.model_validate(values)


@pytest.mark.parametrize("part", ["ceph", "mongodb"])
def test_what_the_pipeline_stands_on_must_be_declared(part: str) -> None:
    environment = load(paths.root() / "configs" / "Pulumi.local.yaml")
    assert environment.pipeline is not None
    values = environment.model_dump()
    values[part] = None
    if part == "ceph":
        values["transfer"] = None
    with pytest.raises(ConfigError, match=f"pipeline: .*it needs {part}"):
        load(values)


def test_a_user_that_is_not_declared_is_named() -> None:
    values = load(paths.root() / "configs" / "Pulumi.local.yaml").model_dump()
    values["kafka"]["users"] = [
        one for one in values["kafka"]["users"] if one["name"] != "pipeline"
    ]
    with pytest.raises(ConfigError, match=r"kafka.users: .*'pipeline' \(pipeline\) is missing"):
        load(values)


def test_nobody_passes_the_proxy_without_a_password() -> None:
    door = "http-request auth realm Pipeline unless { http_auth(people) }"
    assert door in files.haproxy_cfg()
    assert door not in files.haproxy_cfg(guarded=False)


@pytest.mark.parametrize("script", [files.PROXY_SERVE, files.WEB, files.DAEMON])
def test_the_scripts_are_shell(script: str, tmp_path: Path) -> None:
    shell = shutil.which("dash") or shutil.which("sh")
    assert shell
    file = tmp_path / "script.sh"
    file.write_text(script)
    done = subprocess.run([shell, "-n", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_where_runs_live_beside_the_code_are_they_abandoned() -> None:
    assert files.MODULE in files.code_start(abandon=True).split("exec")[0]
    assert files.MODULE not in files.code_start(abandon=False).split("exec")[0]
