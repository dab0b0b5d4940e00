"""Our client and our hooks with the real tusd, on loopback and a folder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from rehearsal import tools
from services import tus
from services.transfer.hooks import object_id
from services.transfer.server import Server
from services.transfer.settings import Limits
from services.transfer.store import new_id
from tests.loopback import free_port

LIMITS = Limits(upload_mib=64, image_mib=8, megapixels=10, batch_members=10)


@dataclass
class Running:
    client: tus.Client
    url: str
    folder: Path
    finished: list[str] = field(default_factory=list)


@pytest.fixture
def tusd(tmp_path: Path) -> Iterator[Running]:
    binary = tools.find(tools.catalogue()["tusd"])
    if binary is None:
        pytest.skip("tusd is not built: ./estate tools build tusd")
    port, folder = free_port(), tmp_path / "data"
    url = f"http://127.0.0.1:{port}/files/"
    made = Running(tus.Client(url, lambda: "unused", waits_s=(0.1, 0.3, 1)), url, folder)
    page = Path(__file__).parent.parent.parent / "services" / "transfer" / "page"
    server = Server(
        0, limits=LIMITS, page=page, finished=made.finished.append, receipt=lambda _: None
    )
    threading.Thread(target=server.serve, daemon=True).start()
    arguments = ["-host", "127.0.0.1", "-port", str(port), "-upload-dir", str(folder)]
    arguments += ["-hooks-http", f"http://127.0.0.1:{server.port}/hooks"]
    arguments += ["-hooks-enabled-events", "pre-create,post-finish", "-disable-cors"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [binary, *arguments],
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)},
        )
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    requests.get(url, timeout=1)
                    break
                except requests.ConnectionError:
                    time.sleep(0.05)
            yield made
        finally:
            process.kill()
            process.wait()
            server.stop()


@dataclass
class Content:
    content: bytes
    cuts: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.content)

    def read_from(self, offset: int) -> Iterator[bytes]:
        end = self.cuts.pop(0) if self.cuts else len(self.content)
        for at in range(offset, end, 8192):
            yield self.content[at : min(at + 8192, end)]
        if end < len(self.content):
            raise requests.ConnectionError("cut")


def metadata(content: bytes) -> dict[str, str]:
    digest = hashlib.sha256(content).hexdigest()
    return {"filename": "ü.jpg", "filetype": "image/jpeg", "sha256": digest, "colour": "red"}


def test_an_upload_that_is_cut_three_times_arrives_whole(tusd: Running) -> None:
    content = os.urandom(3 << 20)
    url = tusd.client.create(len(content), metadata(content))
    counted, offsets = tus.Counted(), list[int]()
    source = Content(content, cuts=[1 << 20, 2 << 20, 5 << 19])
    tusd.client.send(url, source, sent=offsets.append, counted=counted)
    assert (counted.cuts, counted.requests) == (3, 4)
    name = object_id(url.rpartition("/")[2])
    assert (tusd.folder / name).read_bytes() == content
    assert tusd.client.offset(url) == len(content)
    deadline = time.monotonic() + 10
    while not tusd.finished and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tusd.finished == [name]


def test_the_service_names_uploads_and_keeps_what_it_knows(tusd: Running) -> None:
    before = new_id()
    url = tusd.client.create(1, metadata(b"1"))
    name = url.rpartition("/")[2]
    assert before[:11] <= name[:11] <= new_id()[:11]
    info = json.loads((tusd.folder / f"{name}.info").read_text())
    assert info["MetaData"] == {
        key: value for key, value in metadata(b"1").items() if key != "colour"
    }


@pytest.mark.parametrize(
    ("length", "change", "status", "words"),
    [
        (65 << 20, {}, 413, "an upload may have 64 MiB"),
        (1, {"filename": ""}, 400, "filename is missing"),
        (1, {"sha256": "0"}, 400, "sha256"),
        (1, {"batch": "zip"}, 400, "only tar is known"),
        (1, {"filename": "x" * 600}, 400, "at most 512"),
    ],
)
def test_what_is_not_taken_is_refused_before_it_is_sent(
    tusd: Running, length: int, change: dict[str, str], status: int, words: str
) -> None:
    with pytest.raises(tus.Refused, match=words) as refused:
        tusd.client.create(length, {**metadata(b"1"), **change})
    assert refused.value.status == status


def test_extensions_that_the_service_does_not_take_are_refused(tusd: Running) -> None:
    for header in (
        {"Upload-Defer-Length": "1"},
        {"Upload-Length": "1", "Upload-Concat": "partial"},
    ):
        answer = requests.post(tusd.url, headers={"Tus-Resumable": "1.0.0", **header}, timeout=10)
        assert (answer.status_code, "one upload is one file" in answer.text) == (400, True)
