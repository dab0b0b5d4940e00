"""Pages of lists: `limit` items behind a cursor, which names the last item of the page before."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from services.console.problems import Refused

T = TypeVar("T")
MOST = 200
Text = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00]*$")]
"""A text that every backend can take."""


class PageQuery(BaseModel):
    """What every list takes; an unknown parameter is refused, for it would be ignored."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=MOST)
    cursor: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        default=None, description="`next` of the page before"
    )


class Page(BaseModel, Generic[T]):
    """A page; `next` is the cursor of the following one, null on the last."""

    items: list[T]
    next: str | None


def cut(items: Sequence[T], key: Callable[[T], str], asked: PageQuery) -> Page[T]:
    """The page of a list that is there as a whole, in order of `key`."""
    after = decoded(asked.cursor)
    behind = [one for one in items if after is None or key(one) > after]
    page, more = list(behind[: asked.limit]), len(behind) > asked.limit
    return Page(items=page, next=encoded(key(page[-1])) if more else None)


def encoded(text: str) -> str:
    """A text as a cursor."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decoded(cursor: str | None) -> str | None:
    """The text of a cursor. Raises Refused for what is none."""
    if cursor is None:
        return None
    try:
        return base64.b64decode(
            cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        ).decode()
    except ValueError:
        raise Refused(422, "query.cursor: not one that this console gave") from None
