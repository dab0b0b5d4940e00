"""Looks for secrets where none may be: files of a rehearsal, command lines, process environments.

A secret is looked for as it is, in base64 (broken into lines too), hexadecimal, URL encoding and
JSON's escapes, also of one within another, and compressed by gzip, zlib or bzip2. Not looked
into: raw deflate (a zip's), other compressions, and what is larger than 64 MiB unpacked.
"""

from __future__ import annotations

import base64
import bz2
import contextlib
import json
import os
import re
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

_GZIP = b"\x1f\x8b\x08"
_ZLIB = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
_BZ2 = b"BZh"
DEPTH = 4
"""Encodings within one another that are undone: base64 of base64 of gzip has three."""
_BREAK = re.compile(rb"(?:\r?\n|\\r|\\n)[ \t]*")
_BASE64 = re.compile(rb"[0-9a-zA-Z+/_-]{16,}")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_HEX = re.compile(rb"(?:[0-9a-f]{2}){8,}|(?:[0-9A-F]{2}){8,}")
_PRINTED = re.compile(rb"[\x20-\x7e]{8,}")
_WIDE = re.compile(rb"(?:[^\0]\0){4,}|(?:\0[^\0]){4,}")


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
    """The secrets by name, looked for in all their forms."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        if empty := [name for name, value in secrets.items() if not value.strip()]:
            raise ValueError(f"empty, so it would be found everywhere: {', '.join(empty)}")
        self._names = {form: name for name, value in secrets.items() for form in forms(value)}
        self._known: dict[int, frozenset[str]] = {}

    def inside(self, content: bytes) -> frozenset[str]:
        """Names of the secrets in `content`, or in what is compressed in it.

        The answer is kept: a state has copies, and environments of processes are looked at four
        times a second, which must not take from what is tested.
        """
        key = hash(content)
        if key not in self._known:
            texts = {layout for text in _layers(content) for layout in (text, _joined(text))}
            # One form after the other: a pattern of them all is ten times slower.
            found = {name for text in texts for form, name in self._names.items() if form in text}
            self._known[key] = frozenset(found)
        return self._known[key]

    def files(self, folder: Path, leave_out: Iterable[Path] = ()) -> dict[str, set[str]]:
        """Path below `folder` -> names of the secrets in that file."""
        skipped = [Path(path) for path in leave_out]
        found: dict[str, set[str]] = {}
        for file in folder.rglob("*"):
            if any(file.is_relative_to(path) for path in skipped):
                continue
            with contextlib.suppress(OSError):  # gone, or a socket
                names = set(self.inside(os.fsencode(file.name)))
                if file.is_symlink():
                    names |= self.inside(os.fsencode(file.readlink()))
                elif file.is_file():
                    names |= self.inside(file.read_bytes())
                if names:
                    found[str(file.relative_to(folder))] = names
        return found

    def processes(self) -> dict[str, set[str]]:
        """Program and where (`argv`, `environ`) -> names of the secrets, of all processes now."""
        found: dict[str, set[str]] = {}
        for process in Path("/proc").glob("[0-9]*"):
            for where in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    if names := self.inside((process / where).read_bytes()):
                        program = (process / "comm").read_text().strip()
                        found[f"{program} {where}"] = set(names)
        return found


def _joined(text: bytes) -> bytes:
    """The text without line breaks, also those that JSON escapes: base64 is often broken so.

    With the blanks after them, as YAML indents.
    """
    return _BREAK.sub(b"", text)


def _layers(content: bytes) -> Iterator[bytes]:
    """The content, and what is encoded in it, and in that, as deep as DEPTH."""
    seen = {content}
    layer = [content]
    for depth in range(DEPTH + 1):
        yield from layer
        if depth < DEPTH:
            inner = dict.fromkeys(one for text in layer for one in _decoded(text))
            layer = [one for one in inner if one and one not in seen]
            seen.update(layer)


def _decoded(content: bytes) -> Iterator[bytes]:
    yield from _decompressed(content)
    text = _joined(content)
    for coded in _BASE64.findall(text):
        letters = coded.translate(_STANDARD)
        yield base64.b64decode(letters[: len(letters) // 4 * 4])
    for digits in _HEX.findall(text):
        yield bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
    # Only what is text: of bytes that mean nothing there would be a copy for each depth.
    for run in _PRINTED.findall(content) if b"%" in content or b"\\" in content else ():
        if b"%" in run:
            yield unquote_to_bytes(run)
        if b"\\" in run:
            yield run.replace(b'\\"', b'"').replace(b"\\\\", b"\\")
    if b"\0" in content:
        # UTF-16 of Latin letters, of either order: every other byte is nothing.
        yield from (match.replace(b"\0", b"") for match in _WIDE.findall(content))


def _decompressed(content: bytes) -> Iterator[bytes]:
    for magic, bits in ((_GZIP, 31), *((one, 15) for one in _ZLIB), (_BZ2, 0)):
        at = content.find(magic)
        while at >= 0:
            with contextlib.suppress(zlib.error, OSError):
                machine = zlib.decompressobj(bits) if bits else bz2.BZ2Decompressor()
                yield machine.decompress(content[at:], 64 << 20)
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
