"""The two applications: the API for its callers, and what the cluster alone may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.console import problems
from services.console.health import Watch
from services.console.lake import Lake
from services.console.limits import Bounded
from services.console.routes import router
from services.console.security import Allowance, Authenticator
from services.console.settings import Settings

OPENAPI, DOCUMENTATION = "/api/openapi.json", "/api/docs"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
_PAGE = f"""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Estate API</title>
<link rel="stylesheet" href="{DOCUMENTATION}/swagger-ui.css">
<div id="page"></div>
<script src="{DOCUMENTATION}/swagger-ui-bundle.js"></script>
<script src="{DOCUMENTATION}/start.js"></script>
</html>
"""
_START = f"""\
SwaggerUIBundle({{
  url: "{OPENAPI}", dom_id: "#page", deepLinking: true, persistAuthorization: false,
}});
"""


def api(settings: Settings, lake: Lake, watch: Watch) -> FastAPI:
    """The REST API and its documentation."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch.start()
        yield
        watch.stop()
        lake.close()

    app = FastAPI(
        title="Estate console",
        version="1",
        description="The data lake: topics, documents, buckets, datasets and images.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # A path is one path: no second one with a slash behind.
        redirect_slashes=False,
    )
    app.state.lake, app.state.watch = lake, watch
    app.state.authenticator = Authenticator(settings.issuers)
    app.state.allowance = Allowance(settings.limits.requests_per_minute)
    app.add_middleware(Bounded, limits=settings.limits)
    problems.install(app)
    app.include_router(router)
    document = openapi(app)
    app.openapi = lambda: document  # type: ignore[method-assign]

    @app.get(OPENAPI, include_in_schema=False)
    def described() -> JSONResponse:
        return JSONResponse(document)

    if settings.documentation is not None:
        _document(app, settings.documentation)
    return app


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with RFC 9457's problem in the place of FastAPI's own error."""
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    template = "#/components/schemas/{model}"
    problem = problems.Problem.model_json_schema(ref_template=template)
    schemas |= problem.pop("$defs", {})
    schemas["Problem"] = problem
    return found


def _document(app: FastAPI, folder: Path) -> None:
    """Swagger UI, from files of our own: nothing is loaded from elsewhere."""
    files = {name: ((folder / name).read_bytes(), kind) for name, kind in _FILES.items()}
    files["start.js"] = _START.encode(), "text/javascript"

    @app.get(DOCUMENTATION, include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})

    @app.get(DOCUMENTATION + "/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        if name not in files:
            raise problems.NotFound("no such page")
        content, kind = files[name]
        return Response(content, media_type=kind)


def internal(watch: Watch) -> FastAPI:
    """Metrics and probes, on a port that nobody but Prometheus and the kubelet reaches."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/livez")
    def live() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    def ready() -> PlainTextResponse:
        health = watch.health()
        lines = [health.status, *(f"{one.name}: {one.state}" for one in health.backends)]
        return PlainTextResponse("\n".join(lines) + "\n", 200 if watch.ready() else 503)

    return app
