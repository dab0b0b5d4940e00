"""A loopback HTTPS server that answers the routes which Supervisely's SDK calls here, with state.

Routes and forms are those that the unmodified SDK asks and takes; a route that is not here is
answered 404 and kept in `unknown`, which a test asserts to be empty. No Supervisely was at hand to
compare it with.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from PIL import Image

TOKEN = "token-of-the-test-0123456789abcdef"
PREFIX = "/public/api/v3/"


class Refused(Exception):
    """An answer that is not 200: status, body, headers."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


@dataclass
class Supervisely:
    """What it holds, what it was asked, and how it misbehaves."""

    address: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    teams: list[dict[str, Any]] = field(default_factory=lambda: [{"id": 1, "name": "lake"}])
    workspaces: list[dict[str, Any]] = field(
        default_factory=lambda: [{"id": 2, "name": "cameras", "teamId": 1}]
    )
    projects: dict[int, dict[str, Any]] = field(default_factory=dict)
    metas: dict[int, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[int, dict[str, Any]] = field(default_factory=dict)
    images: dict[int, dict[str, Any]] = field(default_factory=dict)
    labels: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    unknown: list[str] = field(default_factory=list)
    answers: dict[str, deque[Refused]] = field(default_factory=dict)
    """Route -> what it answers instead, one after the other."""
    after: dict[str, Refused] = field(default_factory=dict)
    """Route -> what is answered once although the work was done: an answer that was lost."""
    on: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Route -> what is called before it is answered."""
    per_page: int = 3
    next_id: int = 100

    def id(self) -> int:
        self.next_id += 1
        return self.next_id

    # -- what people do in its pages ---------------------------------------------------------------

    def image(self, name: str) -> dict[str, Any]:
        return next(one for one in self.images.values() if one["name"] == name)

    def label(self, name: str, class_: str, geometry: dict[str, Any], shape: str) -> int:
        image = self.image(name)
        made = self.id()
        self.labels.setdefault(image["id"], []).append(
            {
                "id": made,
                "classId": 1,
                "classTitle": class_,
                "geometryType": shape,
                "description": "",
                "tags": [],
                **geometry,
            }
        )
        return made

    def finish(self, name: str, tag: str = "finished") -> None:
        image = self.image(name)
        project = self.datasets[image["datasetId"]]["projectId"]
        found = next(one for one in self.metas[project]["tags"] if one["name"] == tag)
        image["tags"].append({"id": self.id(), "tagId": found["id"], "value": None})

    # -- routes ------------------------------------------------------------------------------------

    def page(self, items: list[Any], asked: dict[str, Any]) -> dict[str, Any]:
        for one in asked.get("filter") or []:
            assert one["operator"] in ("=", "in"), one
            wanted = one["value"] if one["operator"] == "in" else [one["value"]]
            items = [item for item in items if item[one["field"]] in wanted]
        number, size = asked.get("page", 1), self.per_page
        return {
            "total": len(items),
            "perPage": size,
            "pagesCount": max(1, -(-len(items) // size)),
            "entities": items[(number - 1) * size : number * size],
        }

    def call(self, route: str, asked: Any, parts: list[bytes]) -> Any:
        match route:
            case "instance.version":
                return {"version": "6.16.0"}
            case "teams.list":
                return self.page(self.teams, asked)
            case "workspaces.list":
                mine = [one for one in self.workspaces if one["teamId"] == asked["teamId"]]
                return self.page(mine, asked)
            case "projects.list":
                mine = [
                    one
                    for one in self.projects.values()
                    if one["workspaceId"] == asked["workspaceId"]
                ]
                return self.page(mine, asked)
            case "projects.add":
                made = {**asked, "id": self.id()}
                self.metas[made["id"]] = {"classes": [], "tags": [], "projectType": "images"}
                self.projects[made["id"]] = made
                return made
            case "projects.meta":
                return self.metas[int(asked["id"])]
            case "projects.meta.update":
                meta = asked["meta"]
                for one in (*meta["classes"], *meta["tags"]):
                    one.setdefault("id", self.id())
                self.metas[asked["id"]] = meta
                return meta
            case "projects.settings.update":  # with each update of classes and tags
                self.projects[asked["id"]]["settings"] = asked["settings"]
                return {"success": True}
            case "datasets.list":
                mine = [
                    one for one in self.datasets.values() if one["projectId"] == asked["projectId"]
                ]
                return self.page(mine, asked)
            case "datasets.add":
                made = {**asked, "id": self.id()}
                self.datasets[made["id"]] = made
                return made
            case "images.list":
                mine = [
                    one for one in self.images.values() if one["datasetId"] == asked["datasetId"]
                ]
                return self.page(mine, asked)
            case "images.info":  # of what was there already
                return self.images[asked["id"]]
            case "images.internal.hashes.list":
                return [one for one in asked if one in self.blobs]
            case "images.bulk.upload":
                return [self._upload(part) for part in parts]
            case "images.bulk.add":
                return self._add(asked["datasetId"], asked["images"])
            case "annotations.bulk.info":
                return [self._annotation(one) for one in asked["imageIds"]]
        self.unknown.append(route)
        raise Refused(404, {"error": f"no route {route}"})

    def _upload(self, content: bytes) -> dict[str, Any]:
        try:
            Image.open(io.BytesIO(content)).verify()
        except Exception as error:
            return {"errors": [str(error)]}
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        self.blobs[digest] = content
        return {"hash": digest}

    def _add(self, dataset: int, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
        mine = {one["name"]: one["id"] for one in self.images.values()
                if one["datasetId"] == dataset}  # fmt: skip
        twice = [
            {"name": one["title"], "id": mine[one["title"]]}
            for one in images
            if one["title"] in mine
        ]
        if twice:
            body = {"error": "name", "details": {"type": "NONUNIQUE", "errors": twice}}
            raise Refused(400, body)
        made = []
        for one in images:
            if one["hash"] not in self.blobs:
                raise Refused(400, {"error": "hash", "details": {"type": "UNKNOWN"}})
            width, height = Image.open(io.BytesIO(self.blobs[one["hash"]])).size
            made.append(
                {
                    "id": self.id(),
                    "name": one["title"],
                    "hash": one["hash"],
                    "mime": "image/jpeg",
                    "size": str(len(self.blobs[one["hash"]])),
                    "width": width,
                    "height": height,
                    "datasetId": dataset,
                    "tags": [],
                    "meta": {},
                }
            )
        self.images |= {one["id"]: one for one in made}
        return made

    def _annotation(self, image: int) -> dict[str, Any]:
        found = self.images[image]
        project = self.datasets[found["datasetId"]]["projectId"]
        tags = {one["id"]: one["name"] for one in self.metas[project]["tags"]}
        return {
            "imageId": image,
            "imageName": found["name"],
            "annotation": {
                "description": "",
                "tags": [{**one, "name": tags[one["tagId"]]} for one in found["tags"]],
                "size": {"width": found["width"], "height": found["height"]},
                "objects": json.loads(json.dumps(self.labels.get(image, []))),
            },
        }


@contextmanager
def serving(certificate: Path, key: Path) -> Iterator[Supervisely]:
    """Serve on a free loopback port until the block is left."""
    double, lock = Supervisely(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Who announces more than he sends is hung up on.
        timeout = 3
        # An answer goes out at once, in one piece.
        disable_nagle_algorithm, wbufsize = True, -1

        def do_GET(self) -> None:
            asked = dict(parse_qsl(urlsplit(self.path).query))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._do(asked, [])

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kind = self.headers["Content-Type"]
            if kind.startswith("multipart/"):
                message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
                found = [part.get_payload(decode=True) for part in message.walk()][1:]
                return self._do({}, [bytes(part) for part in found if isinstance(part, bytes)])
            return self._do(json.loads(body), [])

        def _do(self, asked: Any, parts: list[bytes]) -> None:
            route = urlsplit(self.path).path.removeprefix(PREFIX)
            if (hook := double.on.get(route)) is not None:
                hook()
            with lock:
                double.asked[route] += 1
                try:
                    if self.headers.get("x-api-key") != TOKEN:
                        raise Refused(401, {"error": "Unauthorized"})
                    if double.answers.get(route):
                        raise double.answers[route].popleft()
                    answer = double.call(route, asked, parts)
                    if route in double.after:
                        raise double.after.pop(route)
                except Refused as refused:
                    return self._answer(refused.status, refused.body, refused.headers)
            return self._answer(200, answer, {})

        def _answer(self, status: int, body: Any, headers: dict[str, str]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    double.address = f"https://127.0.0.1:{server.server_port}"
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
