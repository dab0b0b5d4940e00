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


def haproxy(*files: str, watched: str, changed: str, prepare: str = "") -> str:
    """A script that runs HAProxy on these files, and has it read them again after a change.

    `watched` are the files whose change counts, as arguments of `cat`; `changed` names them in the
    log. `prepare` has the lines that make what HAProxy reads beside them, each time before it does.
    """
    prepared = "".join(f"  {line}\n" for line in prepare.splitlines() or [":"])
    return f"""\
#!/bin/sh
# Runs HAProxy, and has it read again what changes: {changed}.
set -eu
fingerprint() {{ cat {watched} | cksum; }}
prepare() {{
{prepared}}}
before=$(fingerprint)  # of what is read below, so that no change falls between
prepare
haproxy -W -db {" ".join(f"-f {file}" for file in files)} &
proxy=$!
watch() {{
  while sleep 5; do
    now=$(fingerprint)
    if [ "$now" != "$before" ]; then
      before=$now
      echo "{changed} changed: reloading"
      prepare
      # The former worker ends with its last request.
      kill -USR2 "$proxy" || exit 0
    fi
  done
}}
{until_it_ends("proxy", watch="watch")}"""
