"""Shell that scripts of several workloads share."""

from __future__ import annotations


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
