"""A backup of messages alone, as a CronJob makes it: whoever restores opens it like any other."""

from __future__ import annotations

import json
import random
from pathlib import Path

from services.backup import databases, folder, messages, topics
from tests.unit.services.backup.test_messages import some


def test_it_is_a_backup_like_any_other(tmp_path: Path) -> None:
    target = tmp_path / "backup"
    partial = folder.begin(target)
    writer = folder.Writer(partial)
    records = some(random.Random(1), 50)
    content = topics.Content()
    name = f"kafka/t/0-{records[0].offset:020d}.jsonl.gz"
    with writer.lines(name) as write:
        for record in records:
            write(record.plain())
            content.add(record)
    kept = {"segments": [name], "records": content.records, "content": content.digest}
    kafka = {"topics": {"t": [kept]}, "groups": {}}
    folder.seal(partial, target, messages.manifest(kafka, writer, 1.0))
    found = folder.open_(target)
    folder.check(found)
    assert list(topics.saved(target, found.parts["kafka"]["topics"]["t"][0]["segments"])) == records
    topics.fits(found.parts["kafka"], {"t": 1})
    # Restoring no databases asks no server for anything.
    databases.restore(None, target, found.parts["postgres"], {}, lambda *_: None)  # type: ignore[arg-type]


def test_the_password_comes_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "client.json").write_text(json.dumps({"sasl.username": "backup"}))
    (tmp_path / "password").write_text("word\n")
    found = messages.options(tmp_path / "client.json", tmp_path / "password")
    assert found == {"sasl.username": "backup", "sasl.password": "word"}


def test_no_broker_is_one_line_and_no_backup(tmp_path: Path, capsys: object) -> None:
    (tmp_path / "password").write_text("word")
    code = messages.main(
        [str(tmp_path / "nothing.json"), str(tmp_path / "password"), str(tmp_path / "backup")]
    )
    assert code == 1 and not (tmp_path / "backup").exists()
