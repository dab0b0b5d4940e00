"""Entry of the launcher `pulumi-language-python`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

# Until the host has its own handlers an interrupt ends it at once, without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from rehearsal.pulumi_host.host import main

    main(sys.argv[1:])
