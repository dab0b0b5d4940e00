"""The scripts that ask a broker, with an exporter that says what they are told."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from components.datalake import kafka_files as files

BEHIND = "kafka_replica_manager_underreplicatedpartitions"


class Exporter(HTTPServer):
    """Answers with the metric that is asked for, as the exporter of a broker writes it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.values: dict[str, float] = {}


class _Handler(BaseHTTPRequestHandler):
    server: Exporter

    def do_GET(self) -> None:
        name = self.path.partition("name[]=")[2]
        text = f"# HELP {name} of a bean\n# TYPE {name} gauge\n"
        if name in self.server.values:
            text += f"{name} {self.server.values[name]}\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    with Exporter() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def run(folder: Path, exporter: Exporter, text: str, peers: str = "127.0.0.1") -> tuple[int, str]:
    """Exit code and output; the ports of exporter and brokers are the exporter's."""
    port = str(exporter.server_port)

    def here(script: str) -> str:
        for number in (files.METRICS_PORT, files.INTERNAL_PORT):
            script = script.replace(f"/{number}", f"/{port}")
        for there in ("/etc/kafka-scripts/", "/etc/kafka/"):
            script = script.replace(there, f"{folder}/")
        return script

    (folder / "server.properties").write_text(f"controller.quorum.voters=0@{peers}:9090\n")
    (folder / "common.sh").write_text(here(files.COMMON))
    (folder / "script.sh").write_text(here(text))
    done = subprocess.run(
        ["bash", str(folder / "script.sh")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("state", "code", "said"), [(3.0, 0, "3"), (2.0, 1, "2"), (None, 1, "none")]
)
def test_a_broker_is_running_when_its_state_is_3(
    tmp_path: Path, exporter: Exporter, state: float | None, code: int, said: str
) -> None:
    if state is not None:
        exporter.values["kafka_broker_state"] = state
    assert run(tmp_path, exporter, files.RUNNING) == (code, f"broker state: {said}\n")


@pytest.mark.parametrize(
    ("behind", "peers", "waits"),
    [
        (0.0, "127.0.0.1", False),
        (None, "127.0.0.1", False),  # a broker that does not answer cannot be waited for
        (2.0, "127.0.0.1", True),
        (2.0, "127.0.0.2", False),  # all stop: nobody listens there
    ],
)
def test_a_broker_stops_when_the_others_have_caught_up(
    tmp_path: Path, exporter: Exporter, behind: float | None, peers: str, waits: bool
) -> None:
    if behind is not None:
        exporter.values[BEHIND] = behind
    script = files.STOP.replace(f"SECONDS + {files.STOP_WAIT_S}", "SECONDS + 3")
    assert script != files.STOP
    script += 'echo "$SECONDS"\n'
    code, said = run(tmp_path, exporter, script, peers)
    assert code == 0
    assert (int(said) >= 3) is waits
