"""`python3 -m services.transfer SETTINGS.json`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from services.transfer.publish import KafkaPublisher
from services.transfer.server import Server
from services.transfer.settings import Settings
from services.transfer.store import connect
from services.transfer.worker import Worker

_LOOK_S = 10.0


def _end_when_changed(files: Sequence[Path]) -> None:
    """Credentials and whom to trust are read at the start: the kubelet makes another one."""
    before = [file.read_bytes() for file in files]
    while [file.read_bytes() for file in files] == before:
        time.sleep(_LOOK_S)
    logging.getLogger("transfer").info("credentials or authorities changed: starting anew")
    os._exit(0)


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
    files = (settings.access_key, settings.secret_key, settings.password, settings.trust)
    threading.Thread(target=_end_when_changed, args=(files,), name="watch", daemon=True).start()
    Server(
        settings.port,
        limits=settings.limits,
        page=settings.page,
        finished=worker.add,
        receipt=store.receipt,
        # A StatefulSet's pod is named so.
        home=os.environ["HOSTNAME"].rpartition("-")[2],
    ).serve()


if __name__ == "__main__":
    main()
