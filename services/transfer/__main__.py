"""`python3 -m services.transfer SETTINGS.json`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from services.transfer.publish import KafkaPublisher
from services.transfer.server import Server
from services.transfer.settings import Settings
from services.transfer.store import connect
from services.transfer.worker import Worker


def main() -> None:
    """Run until ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = Settings.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # Nothing is lost by a sudden end: what has no receipt is done again.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    store = connect(settings)
    worker = Worker(
        store,
        KafkaPublisher(settings),
        settings.limits,
        threads=settings.workers,
        sweep_s=settings.sweep_s,
        window_h=settings.window_h,
    )
    worker.start()
    Server(
        settings.port,
        limits=settings.limits,
        page=settings.page,
        finished=worker.add,
        receipt=store.receipt,
    ).serve()


if __name__ == "__main__":
    main()
