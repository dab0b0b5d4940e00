"""Shell that scripts of several workloads share."""

from __future__ import annotations

HEALTH = """\
#!/bin/bash
# health.sh PORT PATH: whether what listens on the loopback answers with a status below 400.
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET %s HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' "$2" >&3
read -r -t 4 _ status _ <&3 && [ "$status" -lt 400 ]
"""


def until_it_ends(server: str, *, watch: str) -> str:
    """The end of a script: function `watch` runs beside the process in variable `server`.

    The process gets the signals that end the pod, and its exit code is the script's.
    """
    return f"""\
{watch} &
watcher=$!
trap 'kill -TERM "${server}" 2>/dev/null || true' TERM INT
# A signal ends `wait` before the {server} has ended: ask again until it has.
code=0
wait "${server}" || code=$?
while kill -0 "${server}" 2>/dev/null; do
  code=0
  wait "${server}" || code=$?
done
kill "$watcher" 2>/dev/null || true
exit "$code"
"""
