"""Files of Ceph's daemons: settings, scripts, keyrings. Plain text out of plain values."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
import uuid
from collections.abc import Sequence

from components import shell
from components.datalake.ceph_config import CephConfig

MONITOR_PORT = 3300
OSD_PORTS = range(6800, 6812)
"""Four per daemon, and others to move to when it binds anew."""
METRICS_PORT = 9283
S3_PORT = 8443
_CERTIFICATE = "ssl_certificate=/etc/ceph/tls/tls.crt ssl_private_key=/etc/ceph/tls/tls.key"

_CAPS = {
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "mgr.a": {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"},
    "client.bootstrap-osd": {"mon": "allow profile bootstrap-osd"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx"},
}


def settings(config: CephConfig, monitors: Sequence[str]) -> str:
    """ceph.conf; `monitors` are the names under which clients reach them."""
    return f"""\
[global]
fsid = {config.fsid}
mon host = {",".join(monitors)}
mon initial members = {",".join(str(i) for i in range(config.monitors))}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
# Everything between daemons is encrypted, and only the protocol that can do so is spoken.
ms bind msgr1 = false
ms bind ipv6 = false
ms cluster mode = secure
ms service mode = secure
ms client mode = secure
ms mon cluster mode = secure
ms mon service mode = secure
ms mon client mode = secure
ms bind port min = {OSD_PORTS.start}
ms bind port max = {OSD_PORTS.stop - 1}
keyring = /etc/ceph/keys/$name.keyring
run dir = /run/ceph
admin socket = /run/ceph/$name.asok
log file =
log to stderr = true
err to stderr = true
mon cluster log file =
mon cluster log to stderr = true
crash dir = /tmp
osd pool default size = {config.replicas}
osd pool default min size = {config.min_replicas}
osd pool default pg num = 8
osd pool default pg autoscale mode = off
# Copies are kept apart by OSD: which node has which is the scheduler's to say.
osd crush chooseleaf type = 0

[mon]
mon data = /var/lib/ceph/mon
# The disk is shared with everything else on the node.
mon data avail warn = 5
mon data avail crit = 1
mgr initial modules = prometheus

[mgr]
mgr data = /run/ceph/mgr

[osd]
osd data = /var/lib/ceph/osd
keyring = /etc/ceph/keys/$name.keyring
osd objectstore = bluestore
bluestore block create = true
bluestore block size = {config.storage.size_gib * 2**30 * 7 // 8}
bluestore fsck on mount = false
# The smallest target that Ceph takes is 896 MiB; a fixed cache stays far below.
bluestore cache autotune = false
bluestore cache size = {min(config.osd_resources.memory_limit_mib // 8, 1024) * 2**20}
osd max pg log entries = 2000
osd scrub during recovery = false

[client.rgw]
rgw data = /run/ceph/rgw
# Without tcp_nodelay an answer whose body follows its head waits for the client's delayed
# acknowledgement: 40 ms for each part list or new multipart upload on a connection in use.
rgw frontends = beast ssl_port={S3_PORT} tcp_nodelay=1 {_CERTIFICATE}
rgw thread pool size = 128
rgw enable usage log = true
# What is deleted keeps its room for those who still read it: upstream's two hours are too long for
# a store of this size.
rgw gc obj min wait = 300
rgw gc processor period = 300
rgw gc processor max time = 300
# Level 1 would write every request with its query, in which presigned ones carry a signature.
debug rgw = 0/0
"""


MONITOR = f"""\
#!/bin/bash
# Makes a monitor's store once, then runs it. Its address is that of a Service of its own, which
# stays when the pod gets another. Without a port it would listen for the old protocol too.
set -euo pipefail
ordinal="${{HOSTNAME##*-}}"
address() {{
  local ip
  until ip="$(getent ahostsv4 "$1")"; do sleep 1; done
  echo "${{ip%% *}}"
}}
names="$(sed -n 's/^mon host = //p' /etc/ceph/ceph.conf)"
id=0
arguments=()
for name in ${{names//,/ }}; do
  ip="$(address "$name")"
  arguments+=(--addv "$id" "[v2:$ip:{MONITOR_PORT}]")
  if [ "$id" = "$ordinal" ]; then own="$ip"; fi
  id=$((id + 1))
done
data=/var/lib/ceph/mon
if [ ! -f "$data/made" ]; then
  rm -rf "${{data:?}}"/*
  fsid="$(sed -n 's/^fsid = //p' /etc/ceph/ceph.conf)"
  monmaptool --create --clobber --fsid "$fsid" "${{arguments[@]}}" /tmp/monmap
  ceph-mon --mkfs -i "$ordinal" --monmap /tmp/monmap --keyring /etc/ceph/keys/all.keyring
  touch "$data/made"
fi
exec ceph-mon -f -i "$ordinal" --keyring "$data/keyring" \\
  --public-addr "$own" --public-bind-addr "$POD_IP:{MONITOR_PORT}"
"""

MANAGER = """\
#!/bin/bash
set -euo pipefail
mkdir -p /run/ceph/mgr
exec ceph-mgr -f -i a
"""

PREPARE_OSD = """\
#!/bin/bash
# Makes an OSD known to the monitors and its store, each once.
set -euo pipefail
ordinal="${HOSTNAME##*-}"
uuid="$(sed -n "$((ordinal + 1))p" /etc/ceph/scripts/osd-uuids)"
data=/var/lib/ceph/osd
# The same UUID, number and key as before is no error.
until ceph --connect-timeout 20 -n client.bootstrap-osd osd new "$uuid" "$ordinal" \\
  -i "/etc/ceph/keys/osd.$ordinal.json"; do
  sleep 1
done
if [ ! -f "$data/made" ]; then
  rm -rf "${data:?}"/*
  ceph-osd -i "$ordinal" --mkfs --osd-uuid "$uuid"
  touch "$data/made"
fi
"""

OSD = """\
#!/bin/bash
set -euo pipefail
exec ceph-osd -f -i "${HOSTNAME##*-}" --crush-location "root=default host=$NODE_NAME"
"""

GATEWAY = f"""\
#!/bin/bash
# Runs the gateway, which reads its certificate at its start only: renewed, one gateway after the
# other ends in good order and the kubelet starts it again.
set -euo pipefail
ordinal="${{HOSTNAME##*-}}"
mkdir -p /run/ceph/rgw
fingerprint() {{ cksum < /etc/ceph/tls/tls.crt; }}
before="$(fingerprint)"
radosgw -f -n client.rgw &
gateway=$!
watch() {{
  while sleep 15; do
    if [ "$(fingerprint)" != "$before" ]; then
      echo "certificate renewed: restarting in $((ordinal * 120)) s"
      sleep $((ordinal * 120))
      kill -TERM "$gateway" || true
      exit 0
    fi
  done
}}
{shell.until_it_ends("gateway", watch="watch")}"""


def osd_uuid(fsid: str, osd: int) -> str:
    """The UUID of an OSD's store: the same each time the same cluster is declared."""
    return str(uuid.uuid5(uuid.UUID(fsid), f"osd.{osd}"))


def key(seed: str, entity: str) -> str:
    """A cephx key (type AES, time, length, 16 bytes), derived for one entity.

    Source: CryptoKey::encode of Ceph. Whoever has the seed has all keys, as with client.admin's.
    """
    secret = hmac.digest(seed.encode(), entity.encode(), hashlib.sha256)[:16]
    return base64.b64encode(
        struct.pack("<HIIH", 1, 1_767_225_600, 0, len(secret)) + secret
    ).decode()


def keyrings(config: CephConfig, seed: str) -> dict[str, str]:
    """File name -> content: a keyring per daemon, all of them for a new monitor's store."""
    found = {f"{entity}.keyring": _section(seed, entity) for entity in _CAPS}
    for osd in range(config.osds):
        found[f"osd.{osd}.keyring"] = _section(seed, f"osd.{osd}")
        found[f"osd.{osd}.json"] = f'{{"cephx_secret": "{key(seed, f"osd.{osd}")}"}}'
    found["all.keyring"] = _section(seed, "mon.", {"mon": "allow *"}) + "".join(
        _section(seed, entity, caps) for entity, caps in _CAPS.items()
    )
    return found


def _section(seed: str, entity: str, caps: dict[str, str] | None = None) -> str:
    lines = [f"[{entity}]", f"\tkey = {key(seed, entity)}"]
    lines += [f'\tcaps {daemon} = "{what}"' for daemon, what in (caps or {}).items()]
    return "\n".join(lines) + "\n"
