"""`python3 -m services.serving sync|control SETTINGS`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path
from typing import NoReturn

from services.serving import controller, sync
from services.serving.settings import ControlSettings, SyncSettings


def main() -> NoReturn:
    """Run one of the two until ended."""
    parser = argparse.ArgumentParser(prog="services.serving", description=__doc__)
    parser.add_argument("program", choices=("sync", "control"))
    parser.add_argument("settings", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # As the first process of a container it would not be ended by the signal alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if given.program == "sync":
        sync.run(SyncSettings.load(given.settings))
    controller.run(ControlSettings.load(given.settings))


if __name__ == "__main__":
    main()
