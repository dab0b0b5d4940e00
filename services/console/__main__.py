"""`python3 -m services.console SETTINGS.json`."""

from __future__ import annotations

import logging
import ssl
import sys
import threading
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from services.console import app
from services.console.health import Watch
from services.console.lake import Lake
from services.console.settings import Settings, load

_log = logging.getLogger("console")


def main() -> None:
    """Run until ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = load(Path(sys.argv[1]))
    lake = Lake(settings)
    watch = Watch(lake.declared)
    outer = _server(settings, app.api(settings, lake, watch), settings.port)
    inner = _server(settings, app.internal(watch), settings.internal_port)
    # In a thread, where uvicorn leaves signals alone; it ends with the process.
    threading.Thread(target=inner.run, daemon=True, name="internal").start()
    contexts = [one for one in (outer.config.ssl, inner.config.ssl) if one is not None]
    threading.Thread(
        target=_renew, args=(settings, contexts), daemon=True, name="certificates"
    ).start()
    outer.run()


def _server(settings: Settings, served: FastAPI, port: int) -> uvicorn.Server:
    config = uvicorn.Config(
        served,
        host=settings.host,
        port=port,
        ssl_certfile=str(settings.tls_certificate),
        ssl_keyfile=str(settings.tls_key),
        access_log=False,
        log_config=None,
        server_header=False,
        # The address of whoever asks is the connection's: no proxy speaks for others.
        proxy_headers=False,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=20,
    )
    config.load()
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return uvicorn.Server(config)


def _renew(settings: Settings, contexts: list[ssl.SSLContext]) -> None:
    """Have new connections get the certificate that is there now."""
    files = settings.tls_certificate, settings.tls_key
    before = [file.read_bytes() for file in files]
    while True:
        time.sleep(5)
        try:
            now = [file.read_bytes() for file in files]
            if now != before:
                for context in contexts:
                    context.load_cert_chain(*files)
                before = now
                _log.info("the certificate was renewed")
        except (OSError, ssl.SSLError) as error:  # half written: the next round has it
            _log.warning("certificate: %s", error)


if __name__ == "__main__":
    main()
