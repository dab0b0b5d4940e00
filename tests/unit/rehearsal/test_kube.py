"""The client of the Kubernetes API against a server that answers as one that starts."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rehearsal import kube
from rehearsal.kube import Api, ApiError


class Starting(http.server.BaseHTTPRequestHandler):
    """429 with Retry-After, as the API server says it while its caches fill; then what is asked."""

    busy = 0
    asked = 0

    def do_GET(self) -> None:
        kind = type(self)
        kind.asked += 1
        if self.path.startswith("/missing"):
            return self._answer(404, {"message": "not found"})
        if kind.busy:
            kind.busy -= 1
            return self._answer(429, {"message": "storage is (re)initializing"})
        return self._answer(200, {"kind": "Node"})

    do_PATCH = do_GET

    def _answer(self, status: int, body: object) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = json.dumps(body).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    Starting.busy = Starting.asked = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Starting) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        cluster = {
            "server": f"http://127.0.0.1:{server.server_port}",
            "certificate-authority": str(tmp_path / "ca.crt"),
        }
        user = {"client-certificate": "", "client-key": ""}
        kubeconfig = tmp_path / "kubeconfig"
        document = {"clusters": [{"cluster": cluster}], "users": [{"user": user}]}
        kubeconfig.write_text(yaml.safe_dump(document))
        yield Api(kubeconfig)
        server.shutdown()


def test_a_busy_server_is_asked_again_whatever_the_method(api: Api) -> None:
    Starting.busy = 3
    assert api.get("/node") == {"kind": "Node"}
    Starting.busy = 1
    assert api.merge("/node", {}) == {"kind": "Node"}
    assert Starting.asked == 6


def test_other_errors_are_told_at_once(api: Api) -> None:
    assert api.get("/missing") is None
    with pytest.raises(ApiError, match="not found") as caught:
        api.merge("/missing", {})
    assert caught.value.status == 404 and Starting.asked == 2


def test_a_server_that_stays_busy_ends_with_its_words(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube._BUSY, "backoff_max", 0.01)
    Starting.busy = 1000
    with pytest.raises(ApiError, match="initializing") as caught:
        api.get("/node")
    assert caught.value.status == 429
