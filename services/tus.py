"""A client of tus 1.0 (resumable uploads over HTTP) that streams, and goes on where it was cut.

Why not tuspy: it reads a whole chunk into memory, makes a connection for every request, and cannot
send what is made while it is sent, as batches are.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urljoin

import requests

VERSION = "1.0.0"
_CONNECT_S = 10.0
_SILENCE_S = 120.0
_WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
_AGAIN = frozenset((409, 423, 429, 460, 500, 502, 503, 504))
"""409: another offset than thought; 423: the cut request has not ended yet at the server."""


class Refused(Exception):
    """The server does not want it, and would not the next time: `status` and its words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status, self.words = status, words


class GaveUp(Exception):
    """No progress after all tries; the upload is where it was and can be resumed."""


class Source(Protocol):
    """What is sent: the same bytes from any offset, every time."""

    @property
    def length(self) -> int:
        """How many bytes."""

    def read_from(self, offset: int) -> Iterator[bytes]:
        """The bytes from this offset on."""


@dataclass
class Counted:
    """What an upload took."""

    requests: int = 0
    cuts: int = 0


class Client:
    """Uploads to one endpoint, one after another; a client for each thread.

    `token` is asked for every request, so that a new one can come when the old one ends.
    """

    def __init__(
        self,
        endpoint: str,
        token: Callable[[], str],
        *,
        session: requests.Session | None = None,
        waits_s: tuple[float, ...] = _WAITS_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.endpoint = endpoint
        self._token, self._waits_s, self._sleep = token, waits_s, sleep
        self._session = session or requests.Session()

    def create(self, length: int, metadata: Mapping[str, str]) -> str:
        """Announce an upload; its URL. Raises Refused or GaveUp."""
        pairs = (f"{key} {_base64(value)}" for key, value in metadata.items())
        headers = {"Upload-Length": str(length), "Upload-Metadata": ",".join(pairs)}
        answer = self._patiently(lambda: self._ask("POST", self.endpoint, headers))
        return urljoin(self.endpoint, answer.headers["Location"])

    def offset(self, url: str) -> int:
        """How much the server has. Raises Refused (404: it knows no such upload) or GaveUp."""
        return int(self._patiently(lambda: self._ask("HEAD", url, {})).headers["Upload-Offset"])

    def send(
        self,
        url: str,
        source: Source,
        offset: int | None = 0,
        *,
        sent: Callable[[int], None] = lambda _: None,
        counted: Counted | None = None,
    ) -> None:
        """Send what the server lacks, from `offset` or where it says (None).

        `sent` is called with the offset that was given to the network. Raises Refused, or GaveUp
        after as many tries without progress as there are waits.
        """
        counted = counted or Counted()
        tries, best = 0, -1
        while True:
            if offset is None:
                offset = self.offset(url)
            if offset >= source.length:
                return
            if offset > best:
                tries, best = 0, offset
            counted.requests += 1
            try:
                offset = self._patch(url, source, offset, sent)
                continue
            except (requests.RequestException, _TryAgain) as error:
                counted.cuts += 1
                if tries >= len(self._waits_s):
                    raise GaveUp(f"{url}: {error}") from None
            self._sleep(self._waits_s[tries])
            tries, offset = tries + 1, None

    def _patch(self, url: str, source: Source, offset: int, sent: Callable[[int], None]) -> int:
        def body() -> Iterator[bytes]:
            at = offset
            for piece in source.read_from(offset):
                yield piece
                at += len(piece)
                sent(at)

        headers = {
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
        }
        answer = self._ask("PATCH", url, headers, _Sized(body(), source.length - offset))
        return int(answer.headers["Upload-Offset"])

    def _patiently(self, ask: Callable[[], requests.Response]) -> requests.Response:
        for wait in (*self._waits_s, None):
            try:
                return ask()
            except (requests.RequestException, _TryAgain) as error:
                if wait is None:
                    raise GaveUp(f"{self.endpoint}: {error}") from None
                self._sleep(wait)
        raise AssertionError("the last wait is None")

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: _Sized | None = None
    ) -> requests.Response:
        answer = self._session.request(
            method,
            url,
            headers={
                **headers,
                "Tus-Resumable": VERSION,
                "Authorization": f"Bearer {self._token()}",
            },
            data=body,
            timeout=(_CONNECT_S, _SILENCE_S),
            allow_redirects=False,
        )
        if answer.status_code in _AGAIN:
            raise _TryAgain(f"{answer.status_code}: {_words(answer)}")
        if not 200 <= answer.status_code < 300:
            raise Refused(answer.status_code, _words(answer))
        return answer


class _TryAgain(Exception):
    """An answer that another try may change."""


class _Sized:
    """An iterator with a length, which makes `requests` send Content-Length and not chunks."""

    def __init__(self, pieces: Iterator[bytes], length: int) -> None:
        self._pieces, self._length = pieces, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces


def _base64(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def _words(answer: requests.Response) -> str:
    return " ".join(answer.text.split())[:300] or answer.reason
