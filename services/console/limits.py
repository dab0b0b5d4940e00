"""What every request passes: bounds of its size and number, headers of its answer, metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.console import metrics
from services.console.problems import answer
from services.console.settings import Limits

_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_HEADERS = {
    "Strict-Transport-Security": "max-age=31536000",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
}


class Bounded:
    """Refuses bodies too long or of unknown length, and more requests than there may be."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or what else the server says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        self._under_way += 1
        try:
            refused = self._refused(Headers(scope=scope))
            await (self._app if refused is None else refused)(scope, receive, sent)
        finally:
            self._under_way -= 1
            route = _route(scope)
            metrics.REQUESTS.labels(route, _method(scope), str(status)).inc()
            metrics.SECONDS.labels(route).observe(time.monotonic() - began)

    def _refused(self, headers: Mapping[str, str]) -> ASGIApp | None:
        if self._under_way > self._limits.concurrent:
            text = f"more than {self._limits.concurrent} requests at a time; try again"
            return answer(503, text, headers={"Retry-After": "1"})
        if "transfer-encoding" in headers:
            return answer(411, "say how long the body is, by Content-Length")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:19]) > self._limits.body_kib << 10:
            return answer(413, f"a body has at most {self._limits.body_kib} KiB")
        return None


def _route(scope: Mapping[str, Any]) -> str:
    """The route's own path: what was asked would make a series of each image."""
    return str(getattr(scope.get("route"), "path", "none"))


def _method(scope: Mapping[str, Any]) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"
