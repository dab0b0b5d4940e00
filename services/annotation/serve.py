"""Run after run, each in a process of its own, with metrics of what they found.

The SDK waits for an answer without end, so a run can only be stopped from outside; and its memory
goes back after each.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from prometheus_client import start_http_server

from services.annotation import metrics
from services.annotation.settings import Serve

RUN = (sys.executable, "-m", "services.annotation", "run")

_log = logging.getLogger("annotation")


def serve(told: Serve, command: Sequence[str] = RUN) -> NoReturn:
    """Serve until ended; a run that is going on ends with it, and is simply done again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # As the first process of a container it would not be ended by the signal alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    metrics.ENDED_AT.set_to_current_time()
    files = str(told.certificate), str(told.key)
    server, _ = start_http_server(told.port, certfile=files[0], keyfile=files[1])
    assert isinstance(server.socket, ssl.SSLSocket)
    while True:
        began = time.monotonic()
        once(told.longest_s, command)
        time.sleep(max(0.0, began + told.every_s - time.monotonic()))
        # New connections get the certificate that is there now.
        try:
            server.socket.context.load_cert_chain(*files)
        except (OSError, ssl.SSLError) as error:  # half written: the next round has it
            _log.warning("certificate: %s", error)


def once(longest_s: float, command: Sequence[str]) -> None:
    """One run, stopped after `longest_s`; what it printed is kept as metrics."""
    began = time.monotonic()
    result, found = _run(longest_s, command)
    took = time.monotonic() - began
    metrics.keep(found)
    metrics.RUNS.labels(result).inc()
    metrics.RUN_FAILED.set(result != "done")
    metrics.RUN_SECONDS.set(took)
    metrics.ENDED_AT.set_to_current_time()
    _log.info("run %s after %.0f s", result, took)


def _run(longest_s: float, command: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    # What a run that is stopped leaves behind goes with its folder.
    with TemporaryDirectory(prefix="annotation-run-", ignore_cleanup_errors=True) as scratch:
        said = Path(scratch, "found.json")
        with said.open("wb") as out:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                env={**os.environ, "TMPDIR": scratch},
                start_new_session=True,
            )
            try:
                code = child.wait(longest_s)
            except subprocess.TimeoutExpired:
                return "stopped", []
            finally:
                if child.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        try:
            found = json.loads(said.read_bytes())
        except ValueError:  # it could not even begin; its words are in the log
            return "failed", []
        return ("done" if code == 0 else "failed"), found
