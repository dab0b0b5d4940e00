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
_VERSION = re.compile(r"[0-9]+\.[0-9]+")
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
class Gateway:
    """One of its pods."""

    address: str
    port: int
    name: str
    context: ssl.SSLContext
    folder: str = FOLDER

    def share(self, weights: Mapping[str, int], pools: Mapping[str, str]) -> None:
        """Have it send these percentages to the canary, and models to these pools."""
        self._bring(WEIGHTS, {model: str(weight) for model, weight in weights.items()})
        self._bring(POOLS, pools)

    def seen(self) -> dict[str, Seen]:
        """`model/track` -> requests and failures since it began."""
        found: dict[str, Seen] = {}
        for line in self._say(f"show table {TABLE}").splitlines():
            values = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if "key" in values:
                found[values["key"]] = Seen(
                    requests=_count(values, "http_req_cnt"),
                    failures=_count(values, "http_fail_cnt"),
                )
        return found

    def times(self) -> list[Time]:
        """When each of the last requests of models that are being rolled out was answered."""
        found = []
        for line in self._say(f"show events {RING}").splitlines():
            if match := _TIME.search(line):
                at, key, took = match.groups()
                found.append(Time(key, int(at) / 1000, int(took)))
        return found

    def _bring(self, name: str, wanted: Mapping[str, str]) -> None:
        place = f"{self.folder}/{name}"
        said = self._say(f"show map {place}")
        if said.startswith(("Unknown", "Can't")):
            raise GatewayError(f"{self.address}: {said.strip()}")
        lines = [line.split() for line in said.splitlines()]
        there = {words[1]: words[2] for words in lines if len(words) == 3}
        commands = [
            f"{'set' if model in there else 'add'} map {place} {model} {value}"
            for model, value in wanted.items()
            if there.get(model) != value and _NAME.fullmatch(model) and _word(value)
        ]
        commands += [f"del map {place} {model}" for model in there if model not in wanted]
        # One at a time: HAProxy says nothing to one that was done.
        for command in commands:
            if words := self._say(command).strip():
                raise GatewayError(f"{self.address}: {command}: {words}")

    def _say(self, command: str) -> str:
        try:
            with (
                socket.create_connection((self.address, self.port), _TIMEOUT_S) as plain,
                self.context.wrap_socket(plain, server_hostname=self.name) as tls,
            ):
                # Success is silent, and so is one who is not let in: his version it says always.
                tls.sendall(f"{command};show version\n".encode())
                answer = b""
                while piece := tls.recv(65536):
                    answer += piece
                    if len(answer) > _ANSWER_MOST:
                        raise GatewayError(f"{self.address}: {command}: a huge answer")
        except OSError as error:
            raise GatewayError(f"{self.address}: {command}: {error}") from None
        said, _, version = answer.decode(errors="replace").rstrip().rpartition("\n")
        if not _VERSION.match(version):
            raise GatewayError(f"{self.address}: {command}: no answer")
        return said


def context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS with the controller's certificate. Raises OSError."""
    made = ssl.create_default_context(cafile=str(ca))
    made.load_cert_chain(certificate, key)
    return made


def _count(values: Mapping[str, str], kind: str) -> int:
    found = values.get(kind, "0")
    return int(found) if found.isdigit() else 0


def _word(value: str) -> bool:
    return value.isdigit() or _NAME.fullmatch(value) is not None
