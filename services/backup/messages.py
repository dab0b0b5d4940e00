"""All messages of a Kafka into a new backup: what a CronJob in the cluster runs.

    python3 -m services.backup.messages <client.json> <file of the password> <folder>

`client.json` is librdkafka's configuration without the password. The folder becomes a backup that
`./estate restore --from` takes; it has no databases: PostgreSQL has an archive of its own.
"""

# confluent_kafka.admin hands its classes on without declaring it.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from services.backup import BackupError, folder, topics


def options(client: Path, password: Path) -> dict[str, Any]:
    """Complete configuration of librdkafka."""
    found: dict[str, Any] = json.loads(client.read_text(encoding="utf-8"))
    return {**found, "sasl.password": password.read_text(encoding="utf-8").strip()}


def save(access: dict[str, Any], target: Path) -> dict[str, Any]:
    """Write the backup and return its manifest. Raises BackupError and KafkaException."""
    began = time.time()
    partial = folder.begin(target)
    writer = folder.Writer(partial)
    consumer = Consumer({**access, **topics.READER})
    try:
        kafka = topics.save(AdminClient(access), consumer, writer, lambda *_: None)
    finally:
        consumer.close()
    return folder.seal(partial, target, manifest(kafka, writer, began))


def manifest(kafka: dict[str, Any], writer: folder.Writer, began: float) -> dict[str, Any]:
    """What a backup of messages alone says of itself."""
    return {
        "began": began,
        "ended": time.time(),
        "facts": {},
        "profiles": [],
        "parts": {"kafka": kafka, "postgres": {"databases": {}}},
        "files": writer.files,
    }


def main(arguments: list[str]) -> int:
    """Save once; 1 when it fails, in one line."""
    client, password, target = (Path(one) for one in arguments)
    try:
        made = save(options(client, password), target)
    except (BackupError, KafkaException, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    found = made["parts"]["kafka"]["topics"]
    count = sum(one["records"] for kept in found.values() for one in kept)
    print(f"{count} messages of {len(found)} topics")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
