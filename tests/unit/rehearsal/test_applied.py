"""When `up` may leave Pulumi out: only if all that it would be given is what it was given."""

from __future__ import annotations

import base64
import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Environment, load, secret_refs
from rehearsal import applied, drift, paths
from rehearsal.pulumi import State
from rehearsal.rehearsal import Rehearsal
from tests.unit.rehearsal.conftest import Folders

OUTPUTS: dict[str, Any] = {"checks": [{"id": "a.b"}], "links": {"page": "https://x"}}
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "login"},
    "stringData": {"password": "hunter2-S3cret"},
}
STATE = State(
    [
        {"type": "pulumi:pulumi:Stack", "outputs": OUTPUTS},
        {"type": "kubernetes:core/v1:Secret", "custom": True, "inputs": SECRET},
    ]
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one file of each kind."""
    folder = tmp_path / "project"
    for name in ("components/a.py", "configs/b.yaml", "stacks/c.py", "rehearsal/d.toml"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("one")
    (folder / "Pulumi.yaml").write_text("name: x")
    (folder / "requirements.lock").write_text("")
    monkeypatch.setattr(paths, "root", lambda: folder)
    return folder


@pytest.fixture
def environment() -> Environment:
    return load(Path(__file__).parents[3] / "configs" / "Pulumi.local.yaml")


@pytest.fixture
def made(folders: Folders, root: Path, environment: Environment) -> Rehearsal:
    rehearsal = Rehearsal("local")
    rehearsal.prepare("simulated", "a test", 31_700)
    for name in ("tools.json", "images.json"):
        (rehearsal.folder / name).write_text("{}")
    for _, ref in secret_refs(environment):
        file = rehearsal.folder / "secrets" / str(ref.file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("hunter2")
    state = rehearsal.folder / "pulumi" / "state" / ".pulumi" / "stacks" / "estate"
    state.mkdir(parents=True)
    (state / "local.json").write_text("{}")
    (rehearsal.folder / "pulumi" / "passphrase").write_text("key")
    applied.note(rehearsal, applied.digest(rehearsal, environment), STATE)
    return rehearsal


def test_objects_are_kept_without_the_values_of_secrets(
    made: Rehearsal, environment: Environment
) -> None:
    text = (made.folder / "applied.json").read_text()
    assert "login" in text
    encoded = base64.b64encode(b"hunter2-S3cret").decode()
    assert "hunter2" not in text and encoded not in text
    last = applied.unchanged(made, environment)
    assert last is not None
    (item,) = last.declared(made)
    live = {**item.body, "data": {"password": encoded}}
    assert list(drift.differences(item.body, live, subset=True)) == []
    live["data"] = {"password": encoded[::-1]}
    ((path, _, _),) = drift.differences(item.body, live, subset=True)
    assert path == "data.password"


def test_where_the_pages_lead_is_noted_later_and_is_no_change(
    made: Rehearsal, environment: Environment
) -> None:
    made.required().routes = OUTPUTS["links"]
    assert applied.unchanged(made, environment) is not None
    made.required().profiles.append("lake")
    assert applied.unchanged(made, environment) is None


def test_nothing_changed(made: Rehearsal, environment: Environment) -> None:
    found = applied.unchanged(made, environment)
    assert found is not None
    assert (found.checks, found.links) == (OUTPUTS["checks"], OUTPUTS["links"])


def _touch(file: Path) -> None:
    """What `pulumi up` by hand does to a checkpoint: the same size, another time."""
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda root, made: (root / "components" / "a.py").write_text("two"),
        lambda root, made: (root / "stacks" / "new.py").write_text(""),
        lambda root, made: (root / "configs" / "b.yaml").unlink(),
        lambda root, made: (root / "rehearsal" / "d.toml").write_text("two"),
        lambda root, made: (root / "requirements.lock").write_text("x"),
        lambda root, made: (made.folder / "images.json").write_text('{"a": 1}'),
        lambda root, made: (made.folder / "secrets" / "kafka" / "bridge").write_text("other"),
        lambda root, made: _touch(next(made.folder.rglob("local.json"))),
        lambda root, made: applied.forget(made),
        lambda root, made: (made.folder / "applied.json").write_text("{"),
    ],
)
def test_any_change_is_for_pulumi_to_find_out(
    made: Rehearsal,
    environment: Environment,
    root: Path,
    change: Callable[[Path, Rehearsal], object],
) -> None:
    change(root, made)
    assert applied.unchanged(made, environment) is None


def test_a_new_day_looks_for_new_packages(
    made: Rehearsal, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tomorrow(datetime.date):
        @classmethod
        def today(cls) -> Tomorrow:
            return cls(2999, 1, 1)

    monkeypatch.setattr(datetime, "date", Tomorrow)
    assert applied.unchanged(made, environment) is None


def test_the_note_holds_no_secret(made: Rehearsal) -> None:
    assert "hunter2" not in (made.folder / "applied.json").read_text()
