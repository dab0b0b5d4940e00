from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus

from rehearsal import samples
from services.pipeline import definitions
from services.pipeline.batch import World
from tests.pipeline.conftest import Topic, announce


def test_a_run_takes_a_batch_through_all_stages(world: World, s3: Any, sample_folder: Path) -> None:
    _, events = announce(s3, sample_folder)
    topic = Topic(events[:10])
    job = definitions.images.to_job(
        name="tried",
        resource_defs={
            "world": dg.ResourceDefinition.hardcoded_resource(world),
            "arrivals": dg.ResourceDefinition.hardcoded_resource(topic),
        },
        executor_def=dg.in_process_executor,
    )
    done = job.execute_in_process()
    assert done.success
    assert sum(done.output_for_node("store_images").values()) == 10
    assert topic.committed == 10
    assert sum(world.catalogue.counts().values()) == 10
    again = job.execute_in_process()
    assert again.success
    assert again.output_for_node("store_images") == {}


def test_the_location_has_its_jobs_and_its_sensor() -> None:
    repository = definitions.defs.get_repository_def()
    assert set(repository.job_names) == {"images", "import_images", "dataset_version"}
    assert [one.name for one in repository.sensor_defs] == ["arrivals"]


def test_a_batch_stays_in_memory_between_ops() -> None:
    for job in (definitions.received, definitions.imported, definitions.dataset_version):
        assert job.resource_defs["io_manager"] is dg.mem_io_manager, job.name


def test_runs_whose_process_is_gone_are_failed() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for status in ("STARTED", "STARTING", "SUCCESS"):
            instance.create_run_for_job(
                definitions.dataset_version,
                status=DagsterRunStatus(status),
                run_config={"ops": {"write_version": {"config": {"name": "x"}}}},
            )
        assert definitions.abandon(instance) == 2
        found = sorted(run.status.value for run in instance.get_runs())
        assert found == ["FAILURE", "FAILURE", "SUCCESS"]
        assert definitions.abandon(instance) == 0


def test_samples_are_the_same_every_time(tmp_path: Path) -> None:
    one = samples.write(tmp_path / "one", 60, seed=3, large=False)
    assert samples.write(tmp_path / "two", 60, seed=3, large=False) == one
    assert samples.read(tmp_path / "one") == one
    assert sum(samples.expected(one).values()) == 60
