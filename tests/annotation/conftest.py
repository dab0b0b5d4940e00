"""The double of Supervisely over TLS, moto's S3 with a dataset version, the settings file."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from moto import mock_aws
from PIL import Image

from services.annotation.__main__ import main
from services.annotation.settings import VARIABLE
from services.pipeline import datasets
from services.pipeline.buckets import Bucket
from services.pipeline.datasets import Version
from tests.doubles import supervisely
from tests.doubles.supervisely import TOKEN, Supervisely
from tests.unit.rehearsal.authority import authority

COUNT = 8
WIDTH, HEIGHT = 60, 40


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    authority(folder, "127.0.0.1")
    return folder / "ca.crt", folder / "ca.key"


@pytest.fixture
def double(pair: tuple[Path, Path]) -> Iterator[Supervisely]:
    with supervisely.serving(*pair) as found:
        yield found
    assert found.unknown == []


@pytest.fixture
def s3() -> Iterator[Any]:
    with mock_aws():
        client = botocore.session.Session().create_client(
            "s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        for bucket in ("images", "datasets"):
            client.create_bucket(Bucket=bucket)
        yield client


def picture(number: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (number * 9 % 256, 80, 120)).save(written, "JPEG")
    return written.getvalue()


def stored(s3: Any, count: int) -> Version:
    """A version of so many images in the store."""
    images, rows = Bucket(s3, "images"), []
    for number in range(count):
        content = picture(number)
        digest = hashlib.sha256(content).hexdigest()
        images.put(digest, content, "image/jpeg")
        rows.append(
            {
                "sha256": digest,
                "bucket": "images",
                "key": digest,
                "bytes": len(content),
                "content_type": "image/jpeg",
                "width": WIDTH,
                "height": HEIGHT,
                "name": f"{number}.png",
            }
        )
    return datasets.create(Bucket(s3, "datasets"), "roads", rows)


@dataclass
class World:
    """A version in S3, the double, and the command line over both."""

    double: Supervisely
    s3: Any
    version: Version
    file: Path
    capsys: pytest.CaptureFixture[str]
    token: Path

    @property
    def store(self) -> Bucket:
        return Bucket(self.s3, "datasets")

    def change(self, part: str | None = None, **values: Any) -> None:
        settings = json.loads(self.file.read_text())
        (settings[part] if part else settings).update(values)
        self.file.write_text(json.dumps(settings))

    def ask(self, command: str, code: int = 0) -> tuple[Any, str]:
        """What a command prints as JSON, and what it says."""
        named = [self.version.name, self.version.digest] if command != "run" else []
        self.capsys.readouterr()
        found = main([command, *named], s3=self.s3)
        out, err = self.capsys.readouterr()
        assert found == code, err
        assert TOKEN not in out + err
        return (json.loads(out) if out else None), err

    def names(self) -> list[str]:
        return [f"{entry['sha256']}.jpg" for entry in self.version.entries]


@pytest.fixture
def world(
    double: Supervisely,
    s3: Any,
    pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> World:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    version = stored(s3, COUNT)
    file = tmp_path / "settings.json"
    file.write_text(
        json.dumps(
            {
                "server": {
                    "url": double.address,
                    "token": str(token),
                    "ca": str(pair[0]),
                    "team": "lake",
                    "workspace": "cameras",
                    "project": "estate",
                    "attempts": 4,
                    "wait_s": 0,
                },
                "s3": {
                    "endpoint": "https://s3.test",
                    "access_key": "/k",
                    "secret_key": "/s",
                    "trust": "/ca",
                },
                "classes": [
                    {"name": "car", "shape": "rectangle"},
                    {"name": "road", "shape": "polygon"},
                    {"name": "mark", "shape": "bitmap"},
                ],
                "versions": [{"name": version.name, "digest": version.digest}],
                "batch": 3,
            }
        )
    )
    monkeypatch.setenv(VARIABLE, str(file))
    # What the service sets itself is undone after the test.
    for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    return World(double, s3, version, file, capsys, token)
