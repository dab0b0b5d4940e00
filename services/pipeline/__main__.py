"""`python3 -m services.pipeline COMMAND`: what an operator asks of the pipeline, as JSON."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.pipeline import batch, collect, connect, datasets, metrics, prepare
from services.pipeline.account import account
from services.pipeline.buckets import Bucket
from services.pipeline.catalogue import Catalogue
from services.pipeline.settings import Settings, load
from services.pipeline.store import MongoDocuments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 when something is wrong, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="before the others: password files, the catalogue's tables")
    commands.add_parser("run", help="batches until nothing more arrives")
    commands.add_parser("account", help="whether everything received is accounted for")
    commands.add_parser("metrics", help="serve metrics for Prometheus")
    importing = commands.add_parser("import", help="images that nobody announced")
    importing.add_argument("place", help="s3://BUCKET/PREFIX, or a folder")
    versions = commands.add_parser("datasets", help="versions of datasets")
    versions.add_argument("action", choices=("list", "create", "show", "verify"))
    versions.add_argument("name", nargs="?")
    versions.add_argument("digest", nargs="?")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = load()
    match given.command:
        case "prepare":
            return prepare.main(settings, Path(os.environ[prepare.FOLDER_VARIABLE]))
        case "metrics":
            return metrics.serve(settings)
        case "datasets":
            return _datasets(settings, given.action, given.name, given.digest)
        case "account":
            return _account(settings)
        case "run":
            return _run(settings)
        case _:
            return _import(settings, given.place)


def _print(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


def _run(settings: Settings) -> int:
    arrivals = collect.KafkaArrivals(connect.kafka(settings), settings.kafka.group)
    try:
        with connect.world(settings) as world:
            while (counted := batch.run(world, arrivals)) is not None:
                _print(counted)
    finally:
        arrivals.close()
    return 0


def _import(settings: Settings, place: str) -> int:
    with connect.world(settings) as world:
        arrivals = importing(settings, world, place)
        while (counted := batch.run(world, arrivals)) is not None:
            _print(counted)
    return 0


def importing(settings: Settings, world: batch.World, place: str) -> collect.Listed:
    """The images of a place: `s3://BUCKET/PREFIX` or a folder."""
    if place.startswith("s3://"):
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        found = collect.of_prefix(connect.s3(settings), bucket, prefix)
    else:
        found = collect.of_folder(Path(place))
    return collect.Listed(found, world.catalogue.known)


def _account(settings: Settings) -> int:
    with (
        connect.postgres(settings, settings.catalogue) as session,
        connect.mongo(settings) as documents,
    ):
        found = account(
            collect.announced(connect.kafka(settings), settings.kafka.group),
            Catalogue(session),
            Bucket(connect.s3(settings), settings.s3.images),
            MongoDocuments(documents, settings.mongo.database, settings.mongo.collection),
        )
    _print(found.json_object())
    return 0 if found.whole else 1


def _datasets(settings: Settings, action: str, name: str | None, digest: str | None) -> int:
    client = connect.s3(settings)
    store = Bucket(client, settings.s3.datasets)
    if action == "list":
        _print([{"name": one, "digest": of} for one, of in datasets.versions(store, name)])
        return 0
    if name is None or (action in ("show", "verify") and digest is None):
        print(f"datasets {action}: give NAME{'' if action == 'create' else ' and DIGEST'}")
        return 2
    if action == "create":
        with connect.postgres(settings, settings.catalogue) as session:
            made = datasets.create(store, name, Catalogue(session).for_dataset())
        _print({"name": made.name, "digest": made.digest, "count": made.count})
        return 0
    assert digest is not None
    if action == "show":
        _print(vars(datasets.show(store, name, digest)))
        return 0
    problems = datasets.verify(store, Bucket(client, settings.s3.images), name, digest)
    _print(problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
