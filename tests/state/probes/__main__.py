"""A server of probes: a check per line on stdin, its result on stdout.

Its arguments are names of probes that it loads before it is asked.
Starting Python for every single question would take longer than most answers.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from tests.state.probes import api, find, run_check


def main() -> None:
    """Answer until stdin ends."""
    # What a client library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        find(name)
    kubernetes = api()
    folder = Path(os.environ["TMPDIR"])
    writing = threading.Lock()

    def answer(request: dict[str, Any]) -> None:
        result = run_check(request["check"], folder, kubernetes, request["timeout_s"])
        with writing:
            print(json.dumps({"n": request["n"], **result.json_object()}), file=answers, flush=True)

    for line in sys.stdin:
        threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
    # Threads of a hanging client would keep the interpreter.
    os._exit(0)


if __name__ == "__main__":
    main()
