"""The systems that the console asks, a module for each, and what they have in common."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from services.console.problems import Away, Refused

_log = logging.getLogger("console")


class Backend(Protocol):
    """A system with a name, which answers or does not."""

    name: str

    def ping(self) -> None:
        """Return when it answers as it should; raise whatever it raises otherwise."""


@contextmanager
def answering(backend: str) -> Iterator[None]:
    """Whatever a client library raises is the same to who asks: the backend is away.

    What it said goes to the log: it may name hosts and users.
    """
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        _log.warning("%s: %s: %s", backend, type(error).__name__, " ".join(str(error).split()))
        raise Away(backend, f"{backend} does not answer as it should; try again later") from error
