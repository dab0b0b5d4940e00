"""The gateway's runtime API: which share of a model's requests goes to the canary, what came of it.

HAProxy's own protocol (Management Guide, 9.3), behind TLS that asks for a client's certificate.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.serving.model import Seen

FOLDER = "/run/gateway"
WEIGHTS, POOLS = "weights.map", "pools.map"
TABLE, RING = "seen", "rollouts"
TIME_FORMAT = "time=%[date(0,ms)] key=%[var(txn.key)] took=%Ta"
_TIME = re.compile(r"\btime=([0-9]+) key=([a-z0-9-]+/[a-z]+) took=([0-9]+)\b")
_TIMEOUT_S = 3.0
_ANSWER_MOST = 1 << 20
_VERSION = re.compile(r"^[0-9]+\.[0-9]+.*$", re.MULTILINE)
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class GatewayError(Exception):
    """What the gateway said, or that it does not answer."""


@dataclass(frozen=True)
class Time:
    """One request: `model/track`, when it was answered (s since 1970), how long it took (ms)."""

    key: str
    at: float
    took_ms: int


@dataclass(frozen=True)
class State:
    """What a gateway has counted since it began, by `model/track`, and what its maps say."""

    seen: Mapping[str, Seen]
    maps: Mapping[str, Mapping[str, str]]


class Trust:
    """TLS with the controller's certificate, as its files are now.

    Sessions are resumed: a whole handshake takes a gateway's thread as long as some ten requests.
    """

    def __init__(self, ca: Path, certificate: Path, key: Path) -> None:
        self._files = (ca, certificate, key)
        self._read: tuple[int, ...] = ()
        self._context = ssl.create_default_context()
        self._sessions: dict[str, ssl.SSLSession] = {}

    def refresh(self) -> None:
        """Read the files again when one has changed. Raises OSError."""
        now = tuple(file.stat().st_mtime_ns for file in self._files)
        if now != self._read:
            ca, certificate, key = self._files
            context = ssl.create_default_context(cafile=str(ca))
            context.load_cert_chain(certificate, key)
            self._context, self._sessions, self._read = context, {}, now

    def ask(self, address: str, port: int, name: str, words: bytes, most: int) -> bytes:
        """What is answered until the other side closes, at most so many bytes. Raises OSError."""
        with (
            socket.create_connection((address, port), _TIMEOUT_S) as plain,
            self._context.wrap_socket(
                plain, server_hostname=name, session=self._sessions.get(address)
            ) as tls,
        ):
            tls.sendall(words)
            answer = b""
            while piece := tls.recv(65536):
                answer += piece
                if len(answer) > most:
                    raise OSError("a huge answer")
            if tls.session is not None:
                self._sessions[address] = tls.session
        return answer


@dataclass(frozen=True)
class Gateway:
    """One of its pods."""

    address: str
    port: int
    name: str
    trust: Trust
    folder: str = FOLDER

    def state(self) -> State:
        """All that is looked at in each round, by one connection."""
        names = (WEIGHTS, POOLS)
        table, *maps = self._say(
            f"show table {TABLE}", *(f"show map {self.folder}/{name}" for name in names)
        )
        seen: dict[str, Seen] = {}
        for line in table.splitlines():
            values = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if "key" in values:
                seen[values["key"]] = Seen(
                    requests=_count(values, "http_req_cnt"),
                    failures=_count(values, "http_fail_cnt"),
                )
        return State(seen, {name: self._map(said) for name, said in zip(names, maps, strict=True)})

    def share(
        self, weights: Mapping[str, int], pools: Mapping[str, str], state: State | None = None
    ) -> None:
        """Have it send these percentages to the canary, and models to these pools.

        `state` is what it said a moment ago; None asks it.
        """
        there = (state or self.state()).maps
        told = {model: str(weight) for model, weight in weights.items()}
        for name, wanted in ((WEIGHTS, told), (POOLS, pools)):
            self._bring(name, there[name], wanted)

    def times(self) -> list[Time]:
        """When each of the last requests of models that are being rolled out was answered."""
        found = []
        for line in self._say(f"show events {RING}")[0].splitlines():
            if match := _TIME.search(line):
                at, key, took = match.groups()
                found.append(Time(key, int(at) / 1000, int(took)))
        return found

    def _map(self, said: str) -> dict[str, str]:
        if said.startswith(("Unknown", "Can't")):
            raise GatewayError(f"{self.address}: {said.strip()}")
        lines = [line.split() for line in said.splitlines()]
        return {words[1]: words[2] for words in lines if len(words) == 3}

    def _bring(self, name: str, there: Mapping[str, str], wanted: Mapping[str, str]) -> None:
        place = f"{self.folder}/{name}"
        commands = [
            f"{'set' if model in there else 'add'} map {place} {model} {value}"
            for model, value in wanted.items()
            if there.get(model) != value and _NAME.fullmatch(model) and _word(value)
        ]
        commands += [f"del map {place} {model}" for model in there if model not in wanted]
        for command, said in zip(commands, self._say(*commands), strict=True):
            if words := said.strip():
                raise GatewayError(f"{self.address}: {command}: {words}")

    def _say(self, *commands: str) -> list[str]:
        """The answer to each, by one connection; none is made for no command."""
        if not commands:
            return []
        # Success is silent, and so is one who is not let in: his version he says always.
        words = "".join(f"{command};show version;" for command in commands)
        try:
            answer = self.trust.ask(
                self.address, self.port, self.name, f"{words}\n".encode(), _ANSWER_MOST
            )
        except OSError as error:
            raise GatewayError(f"{self.address}: {commands[0]}: {error}") from None
        said = _VERSION.split(answer.decode(errors="replace"))
        if len(said) != len(commands) + 1:
            raise GatewayError(f"{self.address}: {commands[0]}: no answer")
        return said[:-1]


def _count(values: Mapping[str, str], kind: str) -> int:
    found = values.get(kind, "0")
    return int(found) if found.isdigit() else 0


def _word(value: str) -> bool:
    return value.isdigit() or _NAME.fullmatch(value) is not None
