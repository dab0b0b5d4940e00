"""Dagster takes the instance that the component declares, and makes Jobs that keep the policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job

from components.datalake import pipeline_files, pipeline_pods
from components.datalake.pipeline_config import PipelineConfig
from components.model import Image
from policies.model import Subject
from policies.rules import RULES
from services.pipeline import definitions
from services.pipeline.settings import Settings

IMAGE = Image(repository="docker.io/estate/pipeline", tag="1", digest="sha256:" + "a" * 64)
SECRETS = pipeline_pods.Secrets("s3-pipeline", "kafka-pipeline", "mongodb-pipeline", "d", "c")


def config(launcher: str) -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "launcher": launcher,
            "parallel": 4,
            "users": [{"name": "verify", "password": {"file": "pipeline/verify"}}],
        }
    )


def instance(tmp_path: Path, launcher: str) -> InstanceRef:
    chosen = config(launcher)
    runs = pipeline_pods.launcher(
        "pipeline",
        chosen,
        namespace="datalake",
        image=IMAGE,
        secrets=SECRETS,
        selector={"app.kubernetes.io/name": "pipeline-run"},
    )
    text = pipeline_files.dagster_yaml(chosen, "postgres-rw.datalake", 5432, runs)
    (tmp_path / "dagster.yaml").write_text(text, encoding="utf-8")
    return InstanceRef.from_dir(str(tmp_path))


def test_dagster_takes_the_instance(tmp_path: Path) -> None:
    ref = instance(tmp_path, "local")
    assert type(ref.run_launcher).__name__ == "DefaultRunLauncher"
    url = ref.run_storage_data.config_dict["postgres_url"]
    assert url.startswith("postgresql+psycopg2://")
    assert "sslmode=verify-full" in url and "passfile=/run/pipeline/pgpass" in url
    assert ref.settings["run_monitoring"]["enabled"] is True


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The Job of a run, as it is sent to the API."""
    monkeypatch.setattr(kubernetes.config, "load_incluster_config", lambda: None)
    launcher: Any = instance(tmp_path, "kubernetes").run_launcher
    with dg.DagsterInstance.ephemeral() as kept:
        run = kept.create_run_for_job(
            definitions.dataset_version,
            run_config={"ops": {"write_version": {"config": {"name": "x"}}}},
        )
        context = K8sContainerContext.create_for_run(run, launcher, include_run_tags=True)
    made = construct_dagster_k8s_job(
        job_config=context.get_k8s_job_config(IMAGE.ref, launcher),
        args=["dagster", "api", "execute_run", "{}"],
        job_name="dagster-run-1",
        pod_name="dagster-run-1",
        component="run_worker",
        user_defined_k8s_config=context.run_k8s_config,
    )
    with kubernetes.client.ApiClient() as api:
        body: dict[str, Any] = api.sanitize_for_serialization(made)
    return {**body, "metadata": {**body["metadata"], "namespace": "datalake"}}


def test_the_job_of_a_run_keeps_the_policies(job: dict[str, Any]) -> None:
    subject = Subject(job)
    found = [f"{rule.name}: {finding.message}" for rule in RULES for finding in rule.check(subject)]
    assert found == []


def test_the_job_of_a_run_has_what_the_code_needs(job: dict[str, Any]) -> None:
    template = job["spec"]["template"]
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "pipeline-run"
    pod = template["spec"]
    assert pod["serviceAccountName"] == "pipeline-run"
    assert pod["automountServiceAccountToken"] is False
    (init,), (container,) = pod["initContainers"], pod["containers"]
    for one in (init, container):
        paths = {mount["mountPath"] for mount in one["volumeMounts"]}
        assert {
            "/pipeline/config",
            "/pipeline/secrets",
            "/pipeline/trust",
            "/run/pipeline",
        } <= paths
        names = {one["name"] for one in one["env"]}
        assert {"PIPELINE_SETTINGS", "PIPELINE_RUN"} <= names
    homes = [one for one in container["env"] if one["name"] == "DAGSTER_HOME"]
    assert [one["value"] for one in homes] == ["/pipeline/instance"]
    volumes = {one["name"] for one in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_settings_are_what_the_code_reads() -> None:
    text = pipeline_files.settings(
        config("local"),
        endpoint="https://s3",
        region="us-east-1",
        bootstrap="kafka:9093",
        mongo_url="mongodb://m:27017/?tls=true",
        postgres="postgres-rw",
        port=5432,
        metrics_port=9108,
    )
    settings = Settings.model_validate_json(text)
    assert settings.catalogue.database == "catalogue"
    assert settings.limits.model_dump() == config("local").limits.model_dump()
    workspace = yaml.safe_load(pipeline_files.workspace_yaml())
    assert workspace["load_from"][0]["grpc_server"]["socket"] == "/run/pipeline/code.sock"
