"""ConfigMaps and pods by the client of Kubernetes, against a server that speaks its protocol."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client, config

from services.serving.cluster import FAILURES, Cluster, Pod

PATH = "/api/v1/namespaces/serving"


class FakeApi:
    """ConfigMaps and pods; `watches` are what the next watches tell, a list of events each."""

    def __init__(self) -> None:
        self.maps: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.watches: list[list[dict[str, Any]]] = []
        self.status = 200
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer("GET")

            def do_PUT(self) -> None:
                self._answer("PUT")

            def do_POST(self) -> None:
                self._answer("POST")

            def _answer(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                address = urlsplit(self.path)
                query = {key: one[0] for key, one in parse_qs(address.query).items()}
                fake.asked.append((method, address.path, query))
                if "watch" in query:
                    content = fake.watched()
                    status = 200
                else:
                    status, value = fake.answer(method, address.path, json.loads(body or b"null"))
                    content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Not on the tests' screen."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def watched(self) -> bytes:
        events = self.watches.pop(0) if self.watches else []
        return b"".join(json.dumps(one).encode() + b"\n" for one in events)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if self.status != 200:
            return self.status, {"kind": "Status", "reason": "Forbidden"}
        found = re.fullmatch(rf"{PATH}/(configmaps|pods)(?:/(.+))?", path)
        assert found, path
        kind, name = found.groups()
        if kind == "pods":
            return 200, {"kind": "PodList", "items": self.pods}
        if method == "POST":
            self.maps[body["metadata"]["name"]] = body
            return 201, body
        if name is None:
            return 200, {"kind": "ConfigMapList", "items": list(self.maps.values())}
        if name not in self.maps:
            return 404, {"kind": "Status", "reason": "NotFound"}
        if method == "PUT":
            self.maps[name] = body
        return 200, self.maps[name]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    made = FakeApi()

    def load() -> None:
        known = client.Configuration()
        known.host = made.url
        known.retries = 0
        client.Configuration.set_default(known)

    monkeypatch.setattr(config, "load_incluster_config", load)
    yield made
    client.Configuration._default = None
    made.close()


def test_a_config_map(api: FakeApi) -> None:
    cluster = Cluster("serving")
    assert cluster.config_map("serving-state") is None
    cluster.write_config_map("serving-state", {"digits": "{}"})
    assert cluster.config_map("serving-state") == {"digits": "{}"}
    cluster.write_config_map("serving-state", {})
    assert cluster.config_map("serving-state") == {}
    methods = [method for method, _, _ in api.asked]
    assert methods == ["GET", "PUT", "POST", "GET", "PUT", "GET"]


def test_what_the_api_refuses_is_a_failure(api: FakeApi) -> None:
    cluster = Cluster("serving")
    api.status = 403
    for ask in (
        lambda: cluster.config_map("a"),
        lambda: cluster.write_config_map("a", {}),
        lambda: cluster.labelled("b"),
        lambda: cluster.pods("c"),
    ):
        with pytest.raises(FAILURES):
            ask()
    api.close()
    with pytest.raises(FAILURES):
        cluster.config_map("a")


def test_those_with_a_label(api: FakeApi) -> None:
    api.maps["model-a"] = {"metadata": {"name": "model-a"}, "data": {"model.json": "{}"}}
    api.maps["model-b"] = {"metadata": {"name": "model-b"}}
    found = Cluster("serving").labelled("estate.dev/model")
    assert found == {"model-a": {"model.json": "{}"}, "model-b": {}}
    assert api.asked == [
        ("GET", f"{PATH}/configmaps", {"labelSelector": "estate.dev/model"}),
    ]


def pod(name: str, **status: Any) -> dict[str, Any]:
    found = {
        "metadata": {"name": name, "labels": {"estate.dev/pool": "cpu", "estate.dev/track": "t"}},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            **status,
        },
    }
    if status.pop("ends", False):
        found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return found


def test_pods_that_run_and_are_not_about_to_end(api: FakeApi) -> None:
    api.pods = [
        pod("d", ends=True),
        pod("c", phase="Failed"),
        pod("b", conditions=[{"type": "Ready", "status": "False"}]),
        pod("a"),
        pod("e", podIP=None),
        pod("f", conditions=None),
    ]
    assert Cluster("serving").pods("estate.dev/track") == [
        Pod("a", "10.0.0.1", True, "cpu", "t"),
        Pod("b", "10.0.0.1", False, "cpu", "t"),
        Pod("f", "10.0.0.1", False, "cpu", "t"),
    ]


def event(kind: str) -> dict[str, Any]:
    found = {"metadata": {"name": "serving-assignments", "resourceVersion": "7"}}
    return {"type": kind, "object": found}


GONE = {
    "type": "ERROR",
    "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"},
}


def test_a_watch_goes_on_after_its_end_and_after_errors(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return super().wait(0.01)

    monkeypatch.setattr(threading, "Event", Event)
    told: list[float] = []
    api.watches = [
        [event("ADDED"), event("MODIFIED")],
        [GONE],
        [{"type": "MODIFIED"}],  # no event at all
        [event("ADDED")],
    ]
    Cluster("serving").watching(
        lambda: told.append(time.monotonic()), field_selector="metadata.name=serving-assignments"
    )
    deadline = time.monotonic() + 10
    while len(told) < 3:
        assert time.monotonic() < deadline, api.asked
        time.sleep(0.01)
    watches = [(path, query) for _, path, query in api.asked]
    assert {path for path, _ in watches} == {f"{PATH}/configmaps"}
    for _, query in watches:
        # By its name alone: a role that names it lets nobody list the others. And from what is
        # there now: what came while nobody watched is told of.
        assert query["fieldSelector"] == "metadata.name=serving-assignments"
        assert "resourceVersion" not in query and query["watch"] == "true"
