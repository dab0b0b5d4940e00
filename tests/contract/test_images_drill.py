"""The drill's client with the real tusd, which is killed: every image comes, and once."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from rehearsal import samples, tools
from rehearsal.drills import images_sender
from services import sending
from services.transfer.judge import judged
from services.transfer.publish import Event
from services.transfer.server import Server
from services.transfer.settings import Limits
from services.transfer.store import Upload
from services.transfer.worker import receipt
from tests.loopback import free_port

LIMITS = Limits(upload_mib=256, image_mib=64, megapixels=100, batch_members=20_000)
COUNT = 80


class Transfer:
    """tusd on a folder, our service's answers beside it, and one door before both."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.events: dict[str, list[Event]] = {}
        self.kills = 0
        self._binary, self._data, self._log = binary, folder / "data", folder / "log"
        self._environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder)}
        self._tusd_port = free_port()
        self._finished: set[str] = set()
        page = Path(__file__).parent.parent.parent / "services" / "transfer" / "page"
        self._service = Server(
            0, limits=LIMITS, page=page, finished=self._finished.add, receipt=self._receipt
        )
        threading.Thread(target=self._service.serve, daemon=True).start()
        self._door = _door({"/files/": self._tusd_port, "/receipts/": self._service.port})
        threading.Thread(target=self._door.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._door.server_address[1]}/files/"
        self._process = self._begin()

    def _begin(self) -> subprocess.Popen[bytes]:
        arguments = ["-host", "127.0.0.1", "-port", str(self._tusd_port)]
        arguments += ["-upload-dir", str(self._data), "-behind-proxy", "-disable-cors"]
        arguments += ["-hooks-http", f"http://127.0.0.1:{self._service.port}/hooks"]
        arguments += ["-hooks-enabled-events", "pre-create,post-finish"]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._binary, *arguments], stdout=log, stderr=log, env=self._environment
            )

    def kill(self) -> None:
        """End it by kill -9, and do what the kubelet does then."""
        self._process.kill()
        self._process.wait()
        self.kills += 1
        time.sleep(0.5)
        self._process = self._begin()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._door.shutdown()
        self._door.server_close()
        self._service.stop()

    def _receipt(self, upload_id: str) -> str | None:
        if upload_id not in self.events:
            # A kill may have taken the hook: then the bytes that are there say it.
            info = json.loads((self._data / f"{upload_id}.info").read_text())
            if (self._data / upload_id).stat().st_size != info["Size"]:
                return None
            self.events[upload_id] = judged(
                Upload(upload_id, "b", upload_id, info["Size"], info["MetaData"]),
                info["Size"],
                datetime.now(UTC),
                lambda: (self._data / upload_id).open("rb"),
                LIMITS,
            )
        return receipt(upload_id, self.events[upload_id], time.time())


def _door(parts: dict[str, int]) -> ThreadingHTTPServer:
    """What the proxy is: parts of the path lead to ports; a cut is handed on."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _through(self) -> None:
            port = next(port for part, port in parts.items() if self.path.startswith(part))
            length = int(self.headers.get("Content-Length") or 0)
            other = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                other.putrequest(self.command, self.path, skip_host=True)
                for key, value in self.headers.items():
                    other.putheader(key, value)
                other.endheaders()
                while length:
                    piece = self.rfile.read(min(length, 1 << 16))
                    if not piece:
                        raise OSError("the client has gone")
                    other.send(piece)
                    length -= len(piece)
                answer = other.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                self.close_connection = True
                self.connection.close()
                return
            self.send_response_only(answer.status, answer.reason)
            for key, value in answer.getheaders():
                if key.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_HEAD = _through

        def log_message(self, format: str, *args: object) -> None:
            """Not a line per request."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A connection that was cut."""

    return Quiet(("127.0.0.1", 0), Handler)


@pytest.fixture
def transfer(tmp_path: Path) -> Iterator[Transfer]:
    binary = tools.find(tools.catalogue()["tusd"])
    if binary is None:
        pytest.skip("tusd is not built: ./estate tools build tusd")
    made = Transfer(binary, tmp_path)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if requests.get(made.url, timeout=1).status_code:
                    break
            except requests.ConnectionError:
                time.sleep(0.05)
        yield made
    finally:
        made.close()


def test_every_sample_arrives_once_through_kills_of_tusd(
    transfer: Transfer, tmp_path: Path
) -> None:
    known = samples.write(tmp_path / "samples", COUNT, seed=5)
    work = images_sender.jobs(tmp_path / "samples", known, seed=5)
    assert sum(job.images for job in work) == COUNT
    assert len({"batch" in job.metadata for job in work}) == 2, "batches, and single uploads"
    progress = images_sender.Progress(COUNT)
    door = sending.Door(transfer.url, "127.0.0.1", "", lambda: "unused")

    def kills() -> None:
        for share in (0.1, 0.5):
            while progress.share < share:
                time.sleep(0.01)
            transfer.kill()

    killer = threading.Thread(target=kills, daemon=True)
    killer.start()
    under_way = sending.UnderWay(tmp_path / "under-way")
    sent = images_sender.send(door, work, under_way, progress, pause=lambda _: time.sleep(0.2))
    killer.join(timeout=30)
    assert (transfer.kills, sent.unsent, progress.received) == (2, {}, COUNT)
    assert list((tmp_path / "under-way").iterdir()) == []
    told = [event for events in transfer.events.values() for event in events]
    assert Counter(event.name for event in told) == Counter(one.name for one in known)
    states = {event.name: getattr(event, "reason", None) for event in told}
    assert states == {one.name: one.reason for one in known}
    assert sent.states == dict(
        Counter("quarantined" if one.reason else "received" for one in known)
    )


def test_a_drill_that_is_stopped_sends_no_more(transfer: Transfer, tmp_path: Path) -> None:
    known = samples.write(tmp_path / "samples", 50, seed=6, large=False)
    work = images_sender.jobs(tmp_path / "samples", known, seed=6)
    progress = images_sender.Progress(50)
    progress.stopped.set()
    door = sending.Door(transfer.url, "127.0.0.1", "", lambda: "unused")
    under_way = sending.UnderWay(tmp_path / "under-way")
    sent = images_sender.send(door, work, under_way, progress)
    assert set(sent.unsent.values()) == {"the drill was stopped"}
    assert (len(sent.unsent), progress.received, sent.tried_again) == (len(work), 0, 0)
