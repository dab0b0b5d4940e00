"""Errors as RFC 9457 has them (`application/problem+json`), all of them in one place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger("console")


class Invalid(BaseModel):
    """One value of a request that is not allowed, and why."""

    where: str = Field(description="query.limit, path.digest, body.device")
    why: str


class Problem(BaseModel):
    """RFC 9457; `type` is about:blank, so the status says what kind of problem it is."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    backend: str | None = Field(default=None, description="which system did not answer")
    invalid: list[Invalid] | None = None


class Refused(Exception):
    """An answer that is a problem. `headers` go out with it."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        backend: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.backend = status, detail, backend
        self.headers = dict(headers or {})


class NotFound(Refused):
    """What was asked for is not there."""

    def __init__(self, detail: str) -> None:
        super().__init__(404, detail)


class Away(Refused):
    """A backend that does not answer, or that this environment does not have."""

    def __init__(self, backend: str, detail: str) -> None:
        headers = {"Retry-After": "5"}
        super().__init__(503, detail, backend=backend, headers=headers)


def answer(
    status: int,
    detail: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    backend: str | None = None,
    invalid: list[Invalid] | None = None,
) -> JSONResponse:
    """The response of a problem."""
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        backend=backend,
        invalid=invalid,
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=status,
        headers=dict(headers or {}),
        media_type=MEDIA_TYPE,
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of these problems."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Answer every error of `app` by a problem."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return answer(error.status, error.detail, headers=error.headers, backend=error.backend)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # Not the value: it may be long, or what should not be in a log.
        found = [
            Invalid(where=".".join(str(part) for part in one["loc"]), why=str(one["msg"]))
            for one in error.errors()
        ]
        return answer(422, "; ".join(f"{one.where}: {one.why}" for one in found), invalid=found)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("%s %s", request.method, request.url.path, exc_info=error)
        return answer(500, "an error of the console; its log has more")
