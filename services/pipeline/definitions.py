"""The pipeline as Dagster sees it: nothing here but which function follows which.

The ops of a run share one process: the batch stays in memory between them, and the consumer of the
topic lives as long as the run. What scales is the number of runs, which Kafka's consumer group
divides the partitions among. Dagster reads the types of `context`, so they are no strings here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from services.pipeline import __main__ as commands
from services.pipeline import batch, collect, connect, datasets, features
from services.pipeline.buckets import Bucket
from services.pipeline.catalogue import Catalogue
from services.pipeline.settings import load

_IN_PROGRESS = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


@dg.resource
def world(_: Any) -> Iterator[batch.World]:
    """Everything that a batch touches."""
    with connect.world(load()) as made:
        yield made


@dg.resource
def topic(_: Any) -> Iterator[collect.KafkaArrivals]:
    """A member of the consumer group, for as long as the run."""
    settings = load()
    arrivals = collect.KafkaArrivals(connect.kafka(settings), settings.kafka.group)
    try:
        yield arrivals
    finally:
        arrivals.close()


@dg.resource(required_resource_keys={"world"}, config_schema={"place": str})
def place(context: Any) -> collect.Listed:
    """The images of `s3://BUCKET/PREFIX` or a folder, until all are handed out."""
    return commands.importing(load(), context.resources.world, context.resource_config["place"])


@dg.op(required_resource_keys={"world", "arrivals"})
def collect_images(context: dg.OpExecutionContext) -> list[Any]:
    """What has been received and has no receipt."""
    world = context.resources.world
    events = collect.batch(
        context.resources.arrivals, world.catalogue.known, world.limits.batch, 30
    )
    context.add_output_metadata({"images": len(events)})
    return events


@dg.op(required_resource_keys={"world"})
def preprocess_images(context: dg.OpExecutionContext, events: list[Any]) -> Any:
    """Decoded, upright, bounded; duplicates found, what is no good set aside."""
    found = batch.prepare(context.resources.world, events)
    context.add_output_metadata(
        {
            "new": len(found.new),
            "duplicates": len(found.duplicates),
            "quarantined": len(found.quarantined) + len(found.told),
        }
    )
    return found


@dg.op(required_resource_keys={"world"})
def extract_features(context: dg.OpExecutionContext, found: Any) -> list[Any]:
    """Embedding and statistics of what is new."""
    embedder = context.resources.world.embedder
    described = features.batch(found.new, embedder)
    context.add_output_metadata({"images": len(described), "model": embedder.digest})
    return described


@dg.op(required_resource_keys={"world", "arrivals"})
def store_images(
    context: dg.OpExecutionContext, found: Any, described: list[Any]
) -> dict[str, int]:
    """Objects, documents, catalogue; then the offsets go forward."""
    counted = batch.save(context.resources.world, found, described)
    context.resources.arrivals.commit()
    context.add_output_metadata(counted)
    return counted


@dg.graph
def images() -> None:
    """One batch through all stages."""
    found = preprocess_images(collect_images())
    store_images(found, extract_features(found))


received = images.to_job(
    name="images",
    description="One batch of what the topic announces",
    resource_defs={"world": world, "arrivals": topic, "io_manager": dg.mem_io_manager},
    executor_def=dg.in_process_executor,
)
imported = images.to_job(
    name="import_images",
    description="One batch of what lies in a prefix or folder; run again until none is new",
    resource_defs={"world": world, "arrivals": place, "io_manager": dg.mem_io_manager},
    executor_def=dg.in_process_executor,
)


@dg.op(
    config_schema={
        "name": str,
        "device": dg.Field(str, is_required=False),
        "received_from": dg.Field(str, is_required=False, description="ISO 8601"),
        "received_until": dg.Field(str, is_required=False, description="ISO 8601"),
        "least_sharpness": dg.Field(float, is_required=False),
    }
)
def write_version(context: dg.OpExecutionContext) -> None:
    """An immutable manifest of the images that the configuration chooses."""
    settings, given = load(), dict(context.op_config)
    conditions = {
        "device": "device = %s",
        "received_from": "received_at >= %s",
        "received_until": "received_at < %s",
        "least_sharpness": "sharpness >= %s",
    }
    chosen = [key for key in conditions if key in given]
    with connect.postgres(settings, settings.catalogue) as session:
        rows = Catalogue(session).for_dataset(
            [conditions[key] for key in chosen], [given[key] for key in chosen]
        )
    store = Bucket(connect.s3(settings), settings.s3.datasets)
    made = datasets.create(store, given["name"], rows)
    context.add_output_metadata({"digest": made.digest, "images": made.count})


@dg.job(executor_def=dg.in_process_executor, resource_defs={"io_manager": dg.mem_io_manager})
def dataset_version() -> None:
    """A version of a dataset."""
    write_version()


@dg.sensor(job=received, minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING)
def arrivals(context: dg.SensorEvaluationContext) -> Iterator[Any]:
    """As many runs as the messages that wait need, and no more than `parallel`."""
    settings = load()
    waiting = sum(collect.lag(connect.kafka(settings), settings.kafka.group).values())
    if not waiting:
        yield dg.SkipReason("nothing waits")
        return
    running = context.instance.get_runs_count(
        RunsFilter(job_name=received.name, statuses=_IN_PROGRESS)
    )
    needed = min(settings.parallel, -(-waiting // settings.limits.batch)) - running
    if needed <= 0:
        yield dg.SkipReason(f"{waiting} messages wait, {running} runs are under way")
    for _ in range(needed):
        yield dg.RunRequest()


def abandon(instance: Any) -> int:
    """Fail the runs that are under way, where they can't be: their process went with the server's.

    Dagster's default launcher does not see that. Returns how many there were.
    """
    alive = [status for status in _IN_PROGRESS if status != DagsterRunStatus.QUEUED]
    left = instance.get_runs(RunsFilter(statuses=alive))
    for run in left:
        instance.report_run_failed(run, "its process ended with the container that it ran in")
    return len(left)


defs = dg.Definitions(
    jobs=[received, imported, dataset_version],
    sensors=[arrivals],
)

if __name__ == "__main__":
    print(f"{abandon(dg.DagsterInstance.get())} runs had been left behind by {Path(__file__).name}")
