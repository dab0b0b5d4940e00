"""Looks for secrets where none may be: files of a rehearsal, command lines, process environments.

A secret is looked for as it is, in base64 and URL encoding, in JSON's escapes, and inside what is
compressed by gzip or zlib.
"""

from __future__ import annotations

import base64
import contextlib
import re
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

_GZIP = b"\x1f\x8b\x08"
_ZLIB = (b"x\x01", b"x\x9c", b"x\xda")


def forms(secret: str) -> set[bytes]:
    """The ways in which a secret may be written. In base64 what is around it moves its letters."""
    raw = secret.encode()
    found = {raw, quote(secret, safe="").encode(), raw.hex().encode()}
    for lead in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            coded = encode(b"\0" * lead + raw)
            # The first and the last letters hold bits of the neighbours.
            found.add(coded[{0: 0, 1: 2, 2: 3}[lead] : len(coded.rstrip(b"=")) - 1])
    return found


class Canary:
    """The secrets by name, and one pattern for all their forms."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._names = {form: name for name, value in secrets.items() for form in forms(value)}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, longest_first)))

    def inside(self, content: bytes) -> set[str]:
        """Names of the secrets in `content`, or in what is compressed in it."""
        return {
            self._names[found]
            for text in (content, *_unpacked(content))
            for found in self._pattern.findall(text)
        }

    def files(self, folder: Path, leave_out: Iterable[Path] = ()) -> dict[str, set[str]]:
        """Path below `folder` -> names of the secrets in that file."""
        skipped = [Path(path) for path in leave_out]
        found = {}
        for file in folder.rglob("*"):
            if any(file.is_relative_to(path) for path in skipped) or file.is_symlink():
                continue
            with contextlib.suppress(OSError):  # gone, or a socket
                if file.is_file() and (names := self.inside(file.read_bytes())):
                    found[str(file.relative_to(folder))] = names
        return found

    def processes(self) -> dict[str, set[str]]:
        """Program and where (`argv`, `environ`) -> names of the secrets, of all processes now."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            for where in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    if names := self.inside((process / where).read_bytes()):
                        program = (process / "comm").read_text().strip()
                        found[f"{program} {where}"] = names
        return found


def _unpacked(content: bytes) -> Iterator[bytes]:
    for magic, bits in ((_GZIP, 31), *((one, 15) for one in _ZLIB)):
        at = content.find(magic)
        while at >= 0:
            with contextlib.suppress(zlib.error):
                yield zlib.decompressobj(bits).decompress(content[at:], 64 << 20)
            # Of many small streams in one file, each; random bytes are no stream and end at once.
            at = content.find(magic, at + len(magic))


class Watch:
    """Samples all processes for as long as the block runs; `found` as `Canary.processes`."""

    def __init__(self, canary: Canary, every_s: float = 0.25) -> None:
        self._canary, self._stop = canary, threading.Event()
        self._every_s = every_s
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.found: dict[str, set[str]] = {}
        self.samples = 0

    def _sample(self) -> None:
        while not self._stop.wait(self._every_s):
            for where, names in self._canary.processes().items():
                self.found.setdefault(where, set()).update(names)
            self.samples += 1

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
