"""A program of an image on this machine: what is unpacked, and what it is run with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rehearsal.images import run
from rehearsal.images.build import Builder
from rehearsal.images.errors import ImageError

SHARED = """
epoch = 1700000000
[[layer]]
name = "skeleton"
kind = "files"
accounts = true
files = [{ path = "/tmp", directory = true, mode = "1777" }]
"""
IMAGE = """
[[image]]
key = "one"
repository = "docker.io/estate/one"
tag = "1.0"
smoke = ["/bin/true"]
layers = [
  { use = "skeleton" },
  { kind = "files", name = "own", files = [
    { path = "/opt/tool", text = "tool", mode = "0755" },
    { path = "/absolute", link = "/opt/tool" },
  ] },
]
[image.config]
cmd = ["/opt/tool"]
workdir = "/opt"
env = { WORD = "a=b" }
"""


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "_shared.toml").write_text(SHARED)
    (folder / "some.toml").write_text(IMAGE)
    return Builder(tmp_path / "cache", recipes=folder)


def test_layers_are_unpacked_once_with_their_modes_and_links(builder: Builder) -> None:
    made = builder.build(tools={})["one"]
    image = run.unpacked(builder.store, made.digest)
    skeleton, own = image.lower
    assert (skeleton / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (own / "opt" / "tool").read_text() == "tool"
    assert os.access(own / "opt" / "tool", os.X_OK)
    assert (own / "absolute").readlink() == Path("/opt/tool")
    assert image.environment["WORD"] == "a=b"
    assert image.workdir == "/opt"
    before = own.stat().st_ino
    assert run.unpacked(builder.store, made.digest).lower[1].stat().st_ino == before


def test_what_a_killed_run_left_is_taken_away(builder: Builder) -> None:
    made = builder.build(tools={})["one"]
    name = made.layers[1].digest.removeprefix("sha256:")[:16]
    left = builder.store.root.parent / "unpacked" / f".{name}.x.part"
    left.mkdir(parents=True)
    run.unpacked(builder.store, made.digest)
    assert not left.exists()


def test_a_layer_that_is_no_tar_is_named(builder: Builder) -> None:
    made = builder.build(tools={})["one"]
    builder.store.path(made.layers[1].digest).write_bytes(b"none" * 1000)
    with pytest.raises(ImageError, match="cannot be unpacked"):
        run.unpacked(builder.store, made.digest)
    assert not list((builder.store.root.parent / "unpacked").glob("*.part"))


def test_an_image_that_is_not_there(builder: Builder) -> None:
    with pytest.raises(ImageError, match="is not in the store"):
        run.unpacked(builder.store, "sha256:" + "0" * 64)


@pytest.mark.parametrize("uid", [0, 1000])
def test_without_root_a_user_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    image = run.Image((Path("/low"), Path("/high")), {"A": "1"}, "/work")
    made = run.command(image, ["prog", "-x"], scratch=tmp_path, binds={Path("/here"): "/there"})
    assert ("--map-root-user" in made) is (uid != 0)
    assert "--net" in made
    # The kernel wants the highest layer first.
    assert made[-8:] == ["/high:/low", "/work", "1", "/here", "/there", "A=1", "prog", "-x"]
    assert "--net" not in run.command(image, ["prog"], scratch=tmp_path, network=True)
