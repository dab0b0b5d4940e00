"""The process of a load as its caller sees it, and what `./estate model load` prints."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rehearsal import cli, inside, load
from rehearsal.access import Access
from rehearsal.errors import EstateError
from rehearsal.golden import HEADER_LENGTH
from rehearsal.load import Load, live, rows, versions
from rehearsal.load_figures import Plan, Result, Second, Sent, Tally
from rehearsal.rehearsal import Rehearsal
from tests.unit.rehearsal.conftest import Folders
from tests.unit.rehearsal.golden_sets import golden_json

ACCESS = Access("", {}, {}, "", "", "")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        pair = np.frombuffer(body[int(self.headers[HEADER_LENGTH]) :], "<f4")
        value = float(pair.sum())
        text = f'{{"name":"sum","datatype":"FP32","shape":[1,1],"data":[{value}]}}'
        self._say(f'{{"model_version":"1","outputs":[{text}]}}')

    def do_GET(self) -> None:
        self._say('{"dynamic_batching": {}}')

    def _say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Not on the tests' screen."""


@pytest.fixture
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


class Here:
    """A rehearsal of which only the folder is asked: what it starts runs here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def box(self) -> Here:
        return self

    def prefix(self) -> list[str]:
        return []


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import os

    from rehearsal import paths

    variables = {**os.environ, "PYTHONPATH": str(paths.root())}
    monkeypatch.setattr(inside, "environment", lambda _: variables)
    return Here(tmp_path)


def test_a_load_in_its_own_process(here: Any, server: str) -> None:
    sets = {"1": golden_json(), "2": golden_json(offset=1.0)}
    with Load(here, "digits", {1: "sha256:x"}, ACCESS, golden=sets, ca="") as made:
        made.start("a", Plan("digits", (server,), rate=50.0, seconds=2.0))
        made.start("b", Plan("digits", (server,), rate=20.0))
        result = made.result("a", 30)
        assert (result.sent, result.all_ok) == (100, True)
        assert made.seconds["a"][0].sent == 50
        assert set(made.in_flight(0.0, 1.0)) == {"a", "b"}
        assert made.fetch(f"{server}/config") == {"dynamic_batching": {}}
        assert made.fetch("http://127.0.0.1:9/") is None
        made.listen(0.1)
        assert made.end("b").all_ok
        assert made.end("b") is made.results["b"]


def test_a_server_that_is_away_is_said_in_one_line(here: Any) -> None:
    sets = {"1": golden_json()}
    with Load(here, "digits", {1: "sha256:x"}, ACCESS, golden=sets, ca="") as made:
        made.start("a", Plan("digits", ("http://127.0.0.1:9",), rate=50.0, seconds=1.0))
        with pytest.raises(EstateError, match=r"load: ConnectionError .*digits does not answer"):
            made.result("a", 30)


def test_a_golden_set_that_is_no_set_is_said(here: Any) -> None:
    with (
        pytest.raises(EstateError, match=r"golden set of digits: golden\.json"),
        Load(here, "digits", {1: "sha256:x"}, ACCESS, golden={"1": {"inputs": []}}),
    ):
        raise AssertionError


# -- what is printed -------------------------------------------------------------------------------


def result(*requests: Sent) -> Result:
    return Tally(Plan("digits", ("x",)), 0.0, list(requests)).result(10.0, 1.0)


def answered(due: float, version: str, **more: Any) -> Sent:
    return Sent(due, due, due + 0.002, version=version, first_ended=due + 0.002, **more)


def test_the_table_has_the_figures() -> None:
    again = answered(2.0, "1", attempts=2)
    again.first = "status"
    found = dict(rows(result(answered(0.0, "1"), answered(1.0, "2", track="canary"), again)))
    assert found["sent"] == 3 and found["failed"] == 0
    assert found["latency p50 / p90 / p99"] == "2.00 / 2.00 / 2.00 ms"
    assert found["answers by version"] == "1: 2, 2: 1"
    assert found["answers by track"] == "canary: 1"
    assert found["first attempt failed"] == "status: 1" and found["sent again and answered"] == 1
    assert found["generator's CPU"] == "10 % of a core"


def test_stretches_of_time_have_their_versions() -> None:
    requests = [answered(at + 0.5, version) for at, version in enumerate("1112233")]
    requests.append(answered(3.7, "1"))
    requests.append(Sent(9.0, 9.0))
    assert versions(result(*requests)) == [
        "0-2 s: 1",
        "3 s: 1+2",
        "4 s: 2",
        "5-6 s: 3",
        "9 s: none",
    ]


def test_the_live_line_counts_failures_of_all_seconds() -> None:
    told = [Second(0, 10, 8, 2, 0, 3.0, {"1": 8}), Second(1, 10, 10, 0, 0, 2.5, {"1": 9, "2": 1})]
    assert live(told) == "10/s, 2 failed, p99 2.5 ms, version 1: 9, version 2: 1"
    assert live([Second(0, 0, 0, 0, 0, float("nan"), {})]).endswith("no answer")


# -- the command -----------------------------------------------------------------------------------


def test_a_rehearsal_that_serves_nothing_is_refused(
    folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["model", "load", "digits", "--name", "nobody"]) == 1
    assert "does not exist" in capsys.readouterr().err
    Rehearsal("sim").prepare("simulated", "no root", None)
    assert cli.main(["model", "load", "digits", "--name", "sim"]) == 1
    assert "real node" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--protocol", "mqtt"], ["--rate", "0"], ["--for", "0"]])
def test_what_cannot_be_asked_is_refused(wrong: list[str], folders: Folders) -> None:
    assert cli.main(["model", "load", "digits", *wrong]) == 2


@pytest.mark.parametrize("failed, code", [(0, 0), (1, 1)])
def test_one_failed_request_is_a_failed_command(
    failed: int,
    code: int,
    folders: Folders,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rehearsal.serving_state import Delivery
    from services.serving.model import Version

    Rehearsal("one").prepare("node", "", None)
    requests = [answered(0.0, "1"), *[Sent(1.0, 1.0)] * failed]

    class Ready:
        def __init__(self, *_: object) -> None:
            self.results = {"load": result(*requests)}
            self.seconds: dict[str, list[Second]] = {"load": []}
            self.notes: list[tuple[float, str]] = []

        def __enter__(self) -> Ready:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing runs."""

        def start(self, *_: object) -> None:
            """It is over already."""

    served = Delivery(Version(version=1, digest=f"sha256:{1:064}"), None, 0, "idle", None)
    monkeypatch.setattr("rehearsal.access.of", lambda _: ACCESS)
    monkeypatch.setattr("rehearsal.serving_state.served", lambda *_: served)
    monkeypatch.setattr(load, "Api", lambda *_, **__: None)
    monkeypatch.setattr(load, "Load", Ready)
    assert cli.main(["model", "load", "digits", "--name", "one", "--json"]) == code
    assert '"sent": ' in capsys.readouterr().out
