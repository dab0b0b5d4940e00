"""What tusd and the service of image transfer are started with."""

from __future__ import annotations

import json

from components.datalake.object_store import ObjectStore
from components.datalake.transfer_config import (
    BASE_PATH,
    BUCKET,
    SERVICE_PORT,
    TUSD_PORT,
    USER,
    TransferConfig,
)

S3, KAFKA, TRUST = "/transfer/s3", "/transfer/kafka", "/transfer/trust"
CONFIG, SCRIPTS = "/transfer/config", "/transfer/scripts"
RUN, BUFFER = "/run/tusd", "/transfer/buffer"
PAGE = "/opt/estate/services/transfer/page"
_ACCESS, _SECRET, _CA = f"{S3}/access-key", f"{S3}/secret-key", f"{TRUST}/ca.crt"


def settings(config: TransferConfig, store: ObjectStore, bootstrap: str) -> str:
    """settings.json of the service (services/transfer/settings.py)."""
    return json.dumps(
        {
            "port": SERVICE_PORT,
            "page": PAGE,
            "endpoint": store.endpoint,
            "region": store.region,
            "bucket": BUCKET,
            "access_key": _ACCESS,
            "secret_key": _SECRET,
            "bootstrap": bootstrap,
            "user": USER,
            "password": f"{KAFKA}/password",
            "trust": _CA,
            "limits": {
                "upload_mib": config.upload_mib,
                "image_mib": config.image_mib,
                "megapixels": config.megapixels,
                "batch_members": config.batch_members,
            },
            "workers": config.workers,
            "sweep_s": config.sweep_s,
            "window_h": config.window_h,
        },
        indent=1,
    )


def tusd_start(config: TransferConfig, store: ObjectStore) -> str:
    """Runs tusd with credentials from files, and again when they or the trusted CAs change."""
    arguments = (
        "-host 127.0.0.1",
        f"-port {TUSD_PORT}",
        f"-base-path {BASE_PATH}",
        "-behind-proxy",
        f"-max-size {config.upload_mib << 20}",
        f"-s3-endpoint {store.endpoint}",
        f"-s3-bucket {BUCKET}",
        "-s3-object-prefix uploads/",
        f"-s3-part-size {config.part_mib << 20}",
        f"-s3-max-buffered-parts {config.buffered_parts}",
        f"-s3-concurrent-part-uploads {config.concurrent_parts}",
        # Not -s3-disable-content-hashes, though the service verifies all: parts then go to
        # addresses that the SDK signed, which Debian's radosgw refuses (SignatureDoesNotMatch).
        f"-hooks-http http://127.0.0.1:{SERVICE_PORT}/hooks",
        "-hooks-enabled-events pre-create,post-finish",
        # Senders write; nobody reads or deletes by way of them.
        "-disable-download",
        "-disable-termination",
        # The page comes from the same origin.
        "-disable-cors",
        "-verbose=false",
    )
    command = " \\\n    ".join(arguments)
    return f"""\
#!/bin/bash
set -eu
umask 077
fingerprint() {{ cat {_ACCESS} {_SECRET} {_CA} | cksum; }}
stopping=
trap 'stopping=1' TERM INT
while [ -z "$stopping" ]; do
  before=$(fingerprint)
  printf '[default]\\naws_access_key_id = %s\\naws_secret_access_key = %s\\n' \\
    "$(cat {_ACCESS})" "$(cat {_SECRET})" > {RUN}/credentials
  tusd \\
    {command} &
  tusd=$!
  while kill -0 "$tusd" 2>/dev/null && [ -z "$stopping" ] \\
    && [ "$(fingerprint)" = "$before" ]; do
    # In the background, because only `wait` is interrupted by a signal.
    sleep 5 & wait $! || true
  done
  # It ends the requests that it has and keeps what they brought.
  kill -TERM "$tusd" 2>/dev/null || [ -n "$stopping" ] || exit 1
  while kill -0 "$tusd" 2>/dev/null; do wait "$tusd" || true; done
done
"""


def tusd_environment(store: ObjectStore) -> dict[str, str]:
    """Where the SDK of AWS in tusd finds what it needs; nothing of it is secret."""
    return {
        "AWS_SHARED_CREDENTIALS_FILE": f"{RUN}/credentials",
        "AWS_CONFIG_FILE": f"{RUN}/none",
        "AWS_REGION": store.region,
        "AWS_CA_BUNDLE": _CA,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": RUN,
        "TMPDIR": BUFFER,
    }
