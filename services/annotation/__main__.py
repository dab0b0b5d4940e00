"""`python3 -m services.annotation COMMAND`: JSON on standard output, words on standard error.

The exit code is 0 when the work was done, whatever it found, and 1 when it could not be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from services.annotation.fetch import fetch
from services.annotation.reconcile import reconcile
from services.annotation.send import send
from services.annotation.serve import serve
from services.annotation.server import Supervisely, Trouble
from services.annotation.settings import Settings, load
from services.pipeline import datasets
from services.pipeline.buckets import Bucket, client
from services.pipeline.datasets import Version
from services.pipeline.settings import secret

COMMANDS = {
    "send": "a dataset version to Supervisely",
    "fetch": "finished annotations as a new dataset version",
    "reconcile": "what differs between here and there",
    "run": "all three, for each declared version",
    "serve": "that again and again, with metrics of what is found",
}


def main(arguments: Sequence[str] | None = None, *, s3: Any = None) -> int:
    """Run one command. `s3` is a client to use instead of the one that is declared."""
    parser = argparse.ArgumentParser(prog="annotation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, what in COMMANDS.items():
        one = commands.add_parser(command, help=what)
        if command not in ("run", "serve"):
            one.add_argument("name", help="of the dataset")
            one.add_argument("digest", help="of the version that was, or is to be, sent")
    given = parser.parse_args(arguments)
    settings = load()
    if given.command == "serve":
        if settings.serve is None:
            return _failed(Trouble("serve: not set; say port, certificate and how often there"))
        serve(settings.serve)
    try:
        server, store, images = _connect(settings, s3)
        if given.command == "run":
            return _run(settings, server, store, images)
        version = _version(store, given.name, given.digest)
        _print(_do(given.command, version, settings, server, store, images))
    except (Trouble, BotoCoreError, ClientError, OSError) as error:
        return _failed(error)
    return 0


def _connect(settings: Settings, s3: Any) -> tuple[Supervisely, Bucket, Bucket]:
    if s3 is None:
        s3 = client(
            settings.s3.endpoint,
            settings.s3.region,
            access_key=secret(settings.s3.access_key),
            secret_key=secret(settings.s3.secret_key),
            trust=settings.s3.trust,
        )
    return (
        Supervisely(settings),
        Bucket(s3, settings.s3.datasets),
        Bucket(s3, settings.s3.images),
    )


def _run(settings: Settings, server: Supervisely, store: Bucket, images: Bucket) -> int:
    """Each version by itself: one that cannot be done keeps no other from it."""
    code, found = 0, []
    for one in settings.versions:
        done: dict[str, Any] = {"name": one.name, "digest": one.digest}
        for command in ("send", "fetch", "reconcile"):
            try:
                version = _version(store, one.name, one.digest)
                done[command] = _do(command, version, settings, server, store, images)
            except (Trouble, BotoCoreError, ClientError, OSError) as error:
                code = _failed(error)
                done[command] = {"failed": str(error)}
        found.append(done)
    _print(found)
    return code


def _do(
    command: str,
    version: Version,
    settings: Settings,
    server: Supervisely,
    store: Bucket,
    images: Bucket,
) -> dict[str, Any]:
    if command == "send":
        return asdict(send(version, images, server, settings.batch))
    if command == "fetch":
        return asdict(fetch(version, store, server, settings))
    found = reconcile(version, store, server, settings)
    print(found.table(), file=sys.stderr)
    return found.json_object()


def _version(store: Bucket, name: str, digest: str) -> Version:
    try:
        return datasets.show(store, name, digest)
    except (LookupError, datasets.BadManifest) as error:
        raise Trouble(f"dataset {name}/{digest}: {error}; see: pipeline datasets list") from None


def _failed(error: Exception) -> int:
    print(f"annotation: {' '.join(str(error).split())[:1000]}", file=sys.stderr)
    return 1


def _print(value: Any) -> None:
    print(json.dumps(value, indent=1))


if __name__ == "__main__":
    sys.exit(main())
