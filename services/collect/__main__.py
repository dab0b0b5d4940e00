"""`python3 -m services.collect SETTINGS.json`: the bridge."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from services.collect import metrics
from services.collect.core import Bridge, Limits
from services.collect.kafka import KafkaLog, Tail, Undeliverable
from services.collect.mqtt import Mqtt, Token
from services.collect.server import serve
from services.collect.settings import Settings
from services.collect.spool import Spool

_log = logging.getLogger("collect")
_WAIT_S, _LONGEST_S = 0.005, 0.01
"""A round waits so long for messages, and takes what comes for as long: one sync for them all."""
_SHOW_S = 1.0
_LOOK_S = 10.0
_HANGS_S = 30.0
_LEAVE_S = 5.0


class Program:
    """The rounds, on one thread: nothing in here needs a lock."""

    def __init__(self, settings: Settings) -> None:
        self._spool = Spool(settings.spool.folder, settings.spool.limit_mib << 20)
        self._kafka = KafkaLog(settings.kafka, settings.trust, self._delivered)
        self._mqtt = Mqtt(settings.mqtt, str(settings.trust), self._took, self._renewed)
        limits = Limits(
            window=settings.window,
            patience_s=settings.patience_s,
            acknowledge_s=settings.acknowledge_ms / 1000,
            streams=settings.boots,
        )
        self._bridge: Bridge[Token] = Bridge(self._kafka, self._spool, self._mqtt, limits)
        self._tail = Tail(settings.kafka, settings.trust)
        self._shown_at = float("-inf")
        self._beat = time.monotonic()
        self._asked = threading.Event()

    def alive(self) -> bool:
        """Whether rounds follow one another."""
        return time.monotonic() - self._beat < _HANGS_S

    def ready(self) -> bool:
        """Whether devices' messages come in."""
        return self._mqtt.subscribed

    def stop(self, *_: int | FrameType | None) -> None:
        """End after this round."""
        self._asked.set()

    def run(self) -> None:
        """Until asked to stop. Raises Undeliverable and OSError: the next start begins anew."""
        self._tail.start()
        while not self._asked.is_set():
            self._round()
        # What Kafka does not answer in time is not acknowledged, and comes again.
        self._kafka.flush(_LEAVE_S)
        self._kafka.poll()
        self._bridge.turn(time.monotonic())
        self._bridge.answer()
        self._mqtt.close()
        self._spool.close()

    def _round(self) -> None:
        self._beat = time.monotonic()
        self._mqtt.turn(_WAIT_S, _LONGEST_S)
        self._kafka.poll()
        if not self._bridge.ready and self._tail.known is not None:
            _log.info("kafka: its tail has %d boots", len(self._tail.known))
            self._bridge.caught_up(self._tail.known)
        now = time.monotonic()
        self._bridge.turn(now)
        if now - self._shown_at >= _SHOW_S:
            self._shown_at = now
            metrics.CONNECTED.set(self._mqtt.subscribed)
            metrics.show(self._bridge, self._spool, now)

    def _took(self, topic: str, payload: bytes, token: Token) -> None:
        now_ms = time.time_ns() // 1_000_000
        result = self._bridge.message(topic, payload, token, time.monotonic(), now_ms)
        metrics.MESSAGES.labels(result).inc()

    def _renewed(self) -> None:
        self._bridge.reconnected()

    def _delivered(self, id_: int) -> None:
        entry = self._bridge.delivered(id_)
        metrics.DELIVERY.observe(max(0.0, time.time() - entry.received_ms / 1000))


def _end_when_changed(files: Sequence[Path]) -> None:
    """Credentials and whom to trust are read at the start: the kubelet makes another one."""
    before = [file.read_bytes() for file in files]
    while [file.read_bytes() for file in files] == before:
        time.sleep(_LOOK_S)
    _log.info("credentials or authorities changed: starting anew")
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run until ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = Settings.load(Path(sys.argv[1]))
    program = Program(settings)
    signal.signal(signal.SIGTERM, program.stop)
    files = (settings.mqtt.password, settings.kafka.password, settings.trust)
    threading.Thread(target=_end_when_changed, args=(files,), name="watch", daemon=True).start()
    serve(settings.server, {"/alive": program.alive, "/ready": program.ready})
    try:
        program.run()
    except Undeliverable as error:
        # Without a pause for anything: what was given behind it must not be acknowledged.
        _log.error("kafka: %s: starting anew", error)
        os._exit(1)


if __name__ == "__main__":
    main()
