"""What `backup` and `restore` refuse, in one line, before anything is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rehearsal import cli, paths
from rehearsal.backup import commands, estate
from rehearsal.clients import exclusive
from rehearsal.drills import markers, restore
from rehearsal.errors import EstateError
from rehearsal.progress import BackupBars
from rehearsal.rehearsal import Rehearsal
from services.backup import databases
from services.backup import folder as backups
from services.backup.folder import Backup
from tests.unit.rehearsal.conftest import Folders

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    folders: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.setenv("ESTATE_DATA", str(tmp_path / "data"))

    def call(*arguments: str) -> tuple[int, str]:
        code = cli.main(list(arguments))
        said = capsys.readouterr().err.strip().splitlines()
        return code, said[-1] if said else ""

    return call


def a_backup(where: Path, **manifest: Any) -> Path:
    """An empty backup, whole."""
    where.parent.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {"kafka": {"topics": {}, "groups": {}}, "postgres": {"databases": {}}}
    document = {"parts": parts, "files": {}, "began": 1.0, "ended": 2.0, **manifest}
    backups.seal(backups.begin(where), where, document)
    return where


def test_a_rehearsal_that_is_not_there(run: Run, tmp_path: Path) -> None:
    assert run("backup") == (
        1,
        "estate: rehearsal local: does not exist (there are: none); run: ./estate up",
    )
    source = a_backup(tmp_path / "one")
    code, said = run("restore", "--to", "other", "--from", str(source))
    assert (code, said.split(";")[0]) == (
        1,
        "estate: rehearsal other: does not exist (there are: none)",
    )


def test_a_rehearsal_without_containers(run: Run) -> None:
    Rehearsal("local").prepare("simulated", "not root", 31_700)
    code, said = run("backup")
    assert code == 1
    assert "all its nodes are simulated (not root), so it holds no data" in said
    assert not (paths.data()).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("backup", "--name", "Bad Name"),
        ("restore", "--to", "Bad Name"),
        ("restore",),
        ("restore", "--to", "local", "--from", "/etc/hostname"),
        ("backup", "--to-folder", "/etc/hostname"),
        ("backup", "local"),
        ("restore", "--to", "local", "--force"),
    ],
)
def test_wrong_use(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == 2


def test_nothing_is_begun_while_something_measures(run: Run, tmp_path: Path) -> None:
    made = Rehearsal("local")
    made.prepare("node", "", 31_700)
    source = a_backup(tmp_path / "one")
    with exclusive(made, "drill"):
        for what, arguments in (
            ("backup", ()),
            ("restore", ("--to", "local", "--from", str(source))),
        ):
            code, said = run(what, *arguments)
            assert code == 1
            assert said.startswith(
                f"estate: {what} of rehearsal local: a demo, drill, bench, backup or restore is "
            )


@pytest.mark.usefixtures("folders")
def test_a_folder_that_cannot_be_made_names_what_moves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(EstateError, match=r"--to-folder: /proc/x: .*; give a folder that you may"):
        estate.folder_of(Path("/proc/x"))
    monkeypatch.setenv("ESTATE_DATA", "/proc/x")
    with pytest.raises(EstateError, match=r"/proc/x/backups: .*; set ESTATE_DATA to a folder"):
        estate.folder_of(None)


def test_progress_says_what_its_numbers_are(capsys: pytest.CaptureFixture[str]) -> None:
    with BackupBars() as bars:
        bars("messages: images.received", 5, 10)
        bars("messages: images.received", 10, 10)
        bars("digests", 1_245_803_316, 1_245_803_316)
        bars("objects: images", 2_500_000, 2_500_000)
    shown = capsys.readouterr()
    assert [line.strip() for line in (shown.out + shown.err).splitlines()] == [
        "messages (now images.received): 10 in all",
        "digests: 1245.8 MB in all",
        "objects (now images): 2.5 MB in all",
    ]


@pytest.mark.parametrize("met", [True, False])
def test_the_drills_backup_stays_only_when_something_is_wrong(
    met: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = a_backup(tmp_path / "one")
    figures = {
        "backup": str(made),
        "markers": {},
        "seconds": {},
        "differences": [],
        "spoilt_found": 1,
        "met": met,
    }
    monkeypatch.setattr(restore, "perform", lambda *_: figures)
    assert restore.run("local", None) == (0 if met else 1)
    assert made.exists() is not met
    assert (f"the backup is kept: {made}" in capsys.readouterr().err) is not met


def test_no_backup_at_all(run: Run, tmp_path: Path) -> None:
    code, said = run("restore", "--to", "local")
    folder = f"estate: folder {tmp_path}/data/backups"
    assert (code, said) == (1, f"{folder}: has no backup; run ./estate backup, or give --from")
    assert (tmp_path / "data" / "backups").stat().st_mode & 0o777 == 0o700


def test_the_newest_one_is_taken(run: Run, tmp_path: Path) -> None:
    folder = estate.folder_of(None)
    older, newer = a_backup(folder / "local-1"), a_backup(folder / "local-0")
    (folder / ".local-2.partial").mkdir()
    (folder / ".local-2.partial" / backups.MANIFEST).write_text("{}")
    (folder / "not-a-backup").mkdir()
    os.utime(older / backups.MANIFEST, (1, 1))
    assert commands.newest(folder) == newer


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is no JSON: cut off or changed"),
        (b"{}", "is no manifest of format estate-backup"),
        (json.dumps({"format": "estate-backup", "version": 9}).encode(), "has version 9"),
    ],
)
def test_a_backup_that_is_none(run: Run, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / backups.MANIFEST).write_bytes(content)
    code, said = run("restore", "--to", "local", "--from", str(tmp_path))
    assert code == 1
    assert says in said
    assert "\n" not in said


class Worker:
    """What the process inside says: nothing is there, or something; nothing is ever changed."""

    def __init__(self, found: list[str]) -> None:
        self.found, self.sent = found, list[str]()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, command: str, **_: Any) -> None:
        self.sent.append(command)

    def event(self, _: float) -> dict[str, Any]:
        return {"event": self.sent[-1], "found": self.found}


def subject(tmp_path: Path, worker: Worker, ceph: object = None) -> Any:
    return SimpleNamespace(
        rehearsal=SimpleNamespace(name="local", folder=tmp_path),
        environment=SimpleNamespace(ceph=ceph, postgres=None),
        server=lambda: None,
        clients=lambda: worker,
        left_out={},
    )


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "databases", lambda _: ["estate"])
    monkeypatch.setattr(databases, "rows", lambda *_: [])


@pytest.mark.usefixtures("no_server")
def test_data_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    source = backups.open_(a_backup(tmp_path / "one"))
    worker = Worker(["topic sensors.raw"])
    with pytest.raises(EstateError, match=r"holds data: topic sensors\.raw; .* add --replace"):
        commands.put(subject(tmp_path, worker), source, lambda *_: None, replace=False)
    assert worker.sent == ["data"]
    assert not (tmp_path / "restoring.json").exists()


@pytest.mark.usefixtures("no_server")
def test_only_the_same_backup_goes_on(tmp_path: Path) -> None:
    source = backups.open_(a_backup(tmp_path / "one"))
    other = backups.open_(a_backup(tmp_path / "two", ended=3.0))
    note = tmp_path / "restoring.json"
    note.write_text(json.dumps({"backup": 2.0}))
    assert commands.goes_on(note, source)
    assert not commands.goes_on(note, other)
    note.write_text("{")
    assert not commands.goes_on(note, source)


@pytest.mark.usefixtures("no_server")
def test_parts_that_lack_are_refused(tmp_path: Path) -> None:
    kafka: dict[str, Any] = {"topics": {}, "groups": {}}
    objects = {"buckets": {}, "blob_bytes": 0}
    everything = {"kafka": kafka, "postgres": {"databases": {}}, "objects": objects}
    source = Backup(tmp_path, {"parts": everything, "files": {}, "ended": 1.0})
    worker = Worker([])
    with pytest.raises(EstateError, match=r"has no object store, .* --profile lake"):
        commands.put(subject(tmp_path, worker), source, lambda *_: None, replace=True)
    database = {"kafka": kafka, "postgres": {"databases": {"other": {}}}}
    source = Backup(tmp_path, {"parts": database, "files": {}, "ended": 1.0})
    with pytest.raises(EstateError, match=r"database other: .* declare it in postgres\.databases"):
        commands.put(subject(tmp_path, worker), source, lambda *_: None, replace=True)
    assert worker.sent == []


def test_markers_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    for made in (markers.rows, markers.documents, markers.objects):
        assert made(1) == made(1)
        assert made(1) != made(2)
    one, same = markers.messages(1, 3, 10**12), markers.messages(1, 3, 10**12)
    assert one == same != markers.messages(2, 3, 10**12)
    assert sum(map(len, one.values())) == markers.MESSAGES


def test_markers_that_differ_are_found() -> None:
    assert markers.different("row", {1: "a", 2: "b"}, {2: "c", 3: "d"}) == [
        "row 1 is missing",
        "row 3 is too much",
        "row 2 differs",
    ]
