"""Files into the lake: hashed, announced, sent (again, where it was cut), and their receipts.

What a client has under way is kept in a folder of small files, so that one that was killed goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from services import batches, tus
from services.events import content_type_of

_READ = 1 << 20


@dataclass(frozen=True)
class Door:
    """Where uploads go: `url` ends with /files/; the certificate is for `host`, by `ca` (PEM)."""

    url: str
    host: str
    ca: str = field(repr=False)
    token: Callable[[], str] = field(repr=False)

    def session(self, connections: int = 1) -> requests.Session:
        """A session that verifies `host` whatever the address is."""
        session = requests.Session()
        # Neither a proxy nor a .netrc of the user's: the address is the estate's.
        session.trust_env = False
        session.mount("https://", _ForHost(self.host, self.ca, connections))
        return session

    def client(self, **options: Any) -> tus.Client:
        """A tus client; one for each thread."""
        return tus.Client(self.url, self.token, session=self.session(), **options)


class _ForHost(HTTPAdapter):
    def __init__(self, host: str, ca: str, connections: int) -> None:
        self._host, self._ca = host, ca
        super().__init__(pool_connections=1, pool_maxsize=connections)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **kwargs: Any
    ) -> None:
        """Connections name `host` and verify it, wherever they lead."""
        kwargs |= {
            "server_hostname": self._host,
            "assert_hostname": self._host,
            "ssl_context": ssl.create_default_context(cadata=self._ca),
        }
        super().init_poolmanager(connections, maxsize, block, **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The context knows whom to trust: requests' own bundle is not added."""


@dataclass(frozen=True)
class File:
    """An image on disk as it is declared."""

    path: Path
    name: str
    length: int
    sha256: str
    content_type: str

    def read_from(self, offset: int) -> Iterator[bytes]:
        """The bytes from this offset on."""
        return batches.file_from(self.path, offset, self.length)


@dataclass(frozen=True)
class Job:
    """One upload: an image or a batch of them. `key` is the same for the same content."""

    name: str
    key: str
    metadata: dict[str, str]
    source: tus.Source
    images: int


def measured(path: Path, name: str) -> File:
    """A file with its length, digest, and the content type that its name shows."""
    sha256 = hashlib.sha256()
    length = 0
    with path.open("rb") as file:
        while read := file.read(_READ):
            sha256.update(read)
            length += len(read)
    return File(path, name, length, sha256.hexdigest(), content_type_of(path.name))


def single(file: File) -> Job:
    """An image as an upload of its own."""
    metadata = {"filename": file.name, "filetype": file.content_type, "sha256": file.sha256}
    return Job(file.name, _key(metadata), metadata, file, 1)


def batched(files: Sequence[File], largest: int) -> Iterator[Job]:
    """Batches of at most so many bytes each, or of one image that is larger."""
    group: list[File] = []
    length = 0
    for file in files:
        if group and length + file.length > largest:
            yield _batch(group)
            group, length = [], 0
        group.append(file)
        length += file.length
    if group:
        yield _batch(group)


def _batch(files: Sequence[File]) -> Job:
    members = [
        (
            batches.Member(
                name=file.name,
                length=file.length,
                sha256=file.sha256,
                content_type=file.content_type,
            ),
            file.path,
        )
        for file in files
    ]
    content = _key([member.model_dump() for member, _ in members])
    name = f"{len(files)} images from {files[0].name}"[:200]
    metadata = {"filename": name, "batch": batches.METADATA}
    return Job(name, content, metadata, batches.Archive(members), len(files))


def _key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


class UnderWay:
    """The URLs of uploads that have begun, by their jobs' keys, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def get(self, key: str) -> str | None:
        """The URL of an upload that a client before has begun."""
        try:
            return (self._folder / key).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def put(self, key: str, url: str) -> None:
        """Note a new upload."""
        partial = self._folder / f".{key}.{os.getpid()}"
        partial.write_text(url, encoding="utf-8")
        partial.replace(self._folder / key)

    def done(self, key: str) -> None:
        """Forget one."""
        (self._folder / key).unlink(missing_ok=True)


@dataclass
class Sent:
    """What became of a job: its receipt, or why there is none.

    `refused`: the status by which the server said that it does not want it, also the next time.
    """

    job: Job
    url: str | None = None
    receipt: dict[str, Any] | None = None
    error: str | None = None
    refused: int | None = None
    resumed: bool = False
    counted: tus.Counted = field(default_factory=tus.Counted)


def send(
    door: Door,
    job: Job,
    under_way: UnderWay,
    *,
    sent: Callable[[int], None] = lambda _: None,
    client: tus.Client | None = None,
) -> Sent:
    """Send one job, from where it is. Raises tus.Refused and tus.GaveUp."""
    client = client or door.client()
    result = Sent(job)
    url = under_way.get(job.key)
    offset: int | None = None
    if url is not None:
        # The same place by another address: a rehearsal's port may have changed.
        url = urljoin(door.url, urlsplit(url).path)
        try:
            offset = client.offset(url)
            result.resumed = True
        except tus.Refused as error:
            if error.status not in (404, 410):
                raise
            url = None
    if url is None:
        url, offset = client.create(job.source.length, job.metadata), 0
        under_way.put(job.key, url)
    result.url = url
    client.send(url, job.source, offset, sent=sent, counted=result.counted)
    return result


def upload_name(url: str) -> str:
    """The service's name of an upload: tusd's own has the store's behind a `+`."""
    return unquote(urlsplit(url).path).rpartition("/")[2].partition("+")[0]


def receipt(
    door: Door,
    session: requests.Session,
    url: str,
    patience_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """The receipt of a finished upload, waited for. Raises TimeoutError."""
    name = upload_name(url)
    deadline, wait = time.monotonic() + patience_s, 0.1
    while True:
        try:
            answer = session.get(
                urljoin(door.url, f"/receipts/{name}"),
                headers={"Authorization": f"Bearer {door.token()}"},
                timeout=(10, 30),
            )
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                return found
            why = f"{answer.status_code}: {answer.text[:200]}"
        except requests.RequestException as error:
            why = str(error)
        if time.monotonic() > deadline:
            raise TimeoutError(f"no receipt in {patience_s:.0f} s: {why}")
        sleep(wait)
        wait = min(wait * 1.5, 2)


def send_all(
    door: Door,
    jobs: Sequence[Job],
    under_way: UnderWay,
    *,
    connections: int,
    patience_s: float = 180,
    sent: Callable[[Job, int], None] = lambda *_: None,
) -> Generator[Sent, None, None]:
    """Send many and wait for their receipts; results come as they are there.

    Closed or interrupted, it begins no other job and ends those under way with their next piece;
    what they have sent is not lost.
    """
    stop = threading.Event()

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise _Stopped

    def one(job: Job) -> Sent:
        def went(offset: int) -> None:
            pause(0)
            sent(job, offset)

        try:
            result = send(door, job, under_way, sent=went, client=door.client(sleep=pause))
            assert result.url is not None
            with door.session() as session:
                result.receipt = receipt(door, session, result.url, patience_s, pause)
            under_way.done(job.key)
            return result
        except tus.Refused as error:
            return Sent(job, error=str(error), refused=error.status)
        except (tus.GaveUp, TimeoutError, OSError) as error:
            return Sent(job, error=str(error))

    pool = ThreadPoolExecutor(max(1, min(connections, len(jobs))))
    try:
        for future in as_completed([pool.submit(one, job) for job in jobs]):
            yield future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


class _Stopped(Exception):
    """Ends a thread whose result nobody waits for any more."""
