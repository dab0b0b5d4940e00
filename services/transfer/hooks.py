"""tusd's hooks: whether an upload may begin, and that one has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from services.transfer import metrics
from services.transfer.judge import metadata_problem
from services.transfer.settings import Limits
from services.transfer.store import new_id

SENDER, DEVICE = "X-Estate-Sender", "X-Estate-Device"
"""Headers that only the proxy sets, from the token that it has verified."""
_KEPT = ("filename", "filetype", "sha256", "batch")
_LONGEST = 512


def object_id(tusd_id: str) -> str:
    """Our name of an upload: tusd's S3 store adds `+` and the store's own."""
    return tusd_id.partition("+")[0]


def pre_create(event: Mapping[str, Any], limits: Limits, home: str) -> dict[str, Any]:
    """The answer to tusd: a refusal that the client can read, or a name and clean metadata.

    `home` is the ordinal of this replica.
    """
    upload = event["Upload"]
    metadata: dict[str, str] = upload.get("MetaData") or {}
    if upload.get("SizeIsDeferred") or upload.get("IsPartial") or upload.get("IsFinal"):
        return _refused(400, "extension", "the length comes first, and one upload is one file")
    if upload["Size"] > limits.upload_mib << 20:
        text = f"{upload['Size']} bytes; an upload may have {limits.upload_mib} MiB"
        return _refused(413, "too-large", text)
    if problem := metadata_problem(metadata):
        return _refused(400, "metadata", f"Upload-Metadata: {problem}")
    if any(len(metadata.get(key, "")) > _LONGEST for key in _KEPT):
        return _refused(400, "metadata", f"Upload-Metadata: values have at most {_LONGEST} letters")
    headers: dict[str, list[str]] = event["HTTPRequest"].get("Header") or {}
    kept = {key: metadata[key] for key in _KEPT if key in metadata}
    for key, header in (("sender", SENDER), ("device", DEVICE)):
        if value := (headers.get(header) or [""])[0]:
            kept[key] = value[:_LONGEST]
    return {"ChangeFileInfo": {"ID": new_id(home=home), "MetaData": kept}}


def _refused(status: int, why: str, text: str) -> dict[str, Any]:
    metrics.REFUSED.labels(why).inc()
    return {
        "RejectUpload": True,
        "HTTPResponse": {
            "StatusCode": status,
            "Body": json.dumps({"error": text}),
            "Header": {"Content-Type": "application/json"},
        },
    }
