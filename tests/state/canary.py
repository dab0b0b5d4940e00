"""Looks for secrets where none may be: files of a rehearsal, command lines, process environments.

A secret is looked for as it is, in base64 (broken into lines too), hexadecimal, URL encoding and
JSON's escapes, and inside what is compressed by gzip or zlib, in base64 or not.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

_GZIP = b"\x1f\x8b\x08"
_ZLIB = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
# How base64 of these begins: letters of six bits, so gzip's three bytes are four of them.
_CODED = re.compile(rb"(?:H4sI|eA[E-H]|eF[4-7]|eJ[w-z]|eN[o-r])[0-9a-zA-Z+/_-]{16,}={0,2}")


def forms(secret: str) -> set[bytes]:
    """The ways in which a secret may be written. In base64 what is around it moves its letters."""
    raw = secret.encode()
    found = {raw, quote(secret, safe="").encode(), raw.hex().encode(), raw.hex().upper().encode()}
    for escaped in (json.dumps(secret), json.dumps(secret, ensure_ascii=False)):
        found.add(escaped[1:-1].encode())
        # As Go writes it.
        for sign in "<>&":
            escaped = escaped.replace(sign, f"\\u{ord(sign):04x}")
        found.add(escaped[1:-1].encode())
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
        found = set()
        for text in (content, *_unpacked(content)):
            for layout in (text, _joined(text)):
                found |= {self._names[form] for form in self._pattern.findall(layout)}
        return found

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


def _joined(text: bytes) -> bytes:
    """The text without line breaks, also those that JSON escapes: base64 is often broken so."""
    return re.sub(rb"\r?\n|\\r|\\n", b"", text)


def _unpacked(content: bytes) -> Iterator[bytes]:
    yield from _decompressed(content)
    for coded in _CODED.findall(_joined(content)):
        letters = coded.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        with contextlib.suppress(ValueError):
            raw = base64.b64decode(letters[: len(letters) // 4 * 4])
            yield from _decompressed(raw)


def _decompressed(content: bytes) -> Iterator[bytes]:
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
