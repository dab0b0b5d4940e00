"""Puts a fresh token of Amazon ECR into the Secret by which models are read; run by a CronJob.

    python3 ecr_token.py <region> <URL of the Secret> <folder of the service account>

The URL is the Secret's own in the Kubernetes API; the folder has `token` and `ca.crt`. Credentials
of AWS are found as boto finds them: in EKS, those of the service account's role. A token is good
for 12 hours. Exit 1, with one line that says why: the Secret stays as it was.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

MANAGER = "model-registry-token"
"""Owner of the Secret's values in the eyes of Kubernetes' server-side apply."""
TIMEOUT_S = 20.0
_EXPIRED = "the credentials have expired; give the pod fresh ones (EKS renews a role's by itself)"
_AWS_SAYS = {
    "AccessDeniedException": "the role may not ask: allow it ecr:GetAuthorizationToken on *",
    "AccessDenied": "the role may not be taken: its trust policy has to name this service account",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "ExpiredIdentityToken": _EXPIRED,
    "InvalidIdentityToken": "IAM knows no provider for this cluster's service accounts: make one",
    "InvalidClientTokenId": "AWS does not know these credentials; correct them",
    "UnrecognizedClientException": "AWS does not know these credentials; correct them",
}
_KUBERNETES_SAYS = {
    401: "the service account's token is not taken; see the pod's volume api",
    403: "the service account may not patch this Secret; pulumi up makes its Role",
    404: "there is no such Secret; pulumi up makes it",
}


class Refused(Exception):
    """What AWS or Kubernetes said, and a way out; nothing of it is secret."""


@dataclass(frozen=True)
class Login:
    """What ECR takes as user and password of HTTP, as the Secret has them, and until when."""

    values: Mapping[str, str] = field(repr=False)
    until: datetime


def main(arguments: list[str]) -> int:
    """Do it once; prints until when it is good."""
    region, url, folder = arguments
    try:
        login = ask(region)
        put(url, Path(folder), login)
    except Refused as error:
        print(f"ecr: {error}", file=sys.stderr)
        return 1
    print(f"{url.rpartition('/')[2]}: good until {login.until:%Y-%m-%dT%H:%M:%SZ}")
    return 0


def ask(region: str) -> Login:
    """A fresh token. Raises Refused."""
    config = Config(
        connect_timeout=TIMEOUT_S,
        read_timeout=TIMEOUT_S,
        retries={"total_max_attempts": 4, "mode": "standard"},
    )
    try:
        client = botocore.session.Session().create_client("ecr", region, config=config)
        answer = client.get_authorization_token()
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        words = _AWS_SAYS.get(code, "see AWS's documentation of this error")
        raise Refused(f"{error.operation_name}: {code}: {words}") from None
    except BotoCoreError as error:
        # Their texts name no value: what lacks, or which address is silent.
        words = " ".join(str(error).split())[:200]
        raise Refused(
            f"{words}; see eks.amazonaws.com/role-arn at the service account, and whether the pod "
            "reaches AWS"
        ) from None
    return _login(answer)


def _login(answer: Mapping[str, Any]) -> Login:
    try:
        given = answer["authorizationData"][0]
        decoded = base64.b64decode(given["authorizationToken"], validate=True).decode()
        until = given["expiresAt"].astimezone(UTC)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        decoded, until = "", datetime.min
    user, colon, rest = decoded.partition(":")
    if not (user and colon and rest):
        # Nothing of the text: it may hold the password.
        raise Refused("GetAuthorizationToken: the answer holds no user and password")
    return Login({"username": user, "password": rest}, until)


def put(url: str, folder: Path, login: Login) -> None:
    """Write it into the Secret, both keys at once. Raises Refused."""
    data = {key: base64.b64encode(text.encode()).decode() for key, text in login.values.items()}
    try:
        bearer = (folder / "token").read_text(encoding="ascii").strip()
        request = urllib.request.Request(
            f"{url}?fieldManager={MANAGER}",
            data=json.dumps({"data": data}).encode(),
            headers={
                "Authorization": f"Bearer {bearer}",
                "Content-Type": "application/merge-patch+json",
            },
            method="PATCH",
        )
        tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=tls) as said:
            said.read()
    except urllib.error.HTTPError as error:
        error.close()
        words = _KUBERNETES_SAYS.get(error.code, "see the API server's log")
        raise Refused(f"{url.rpartition('/')[2]}: status {error.code}: {words}") from None
    except (OSError, http.client.HTTPException) as error:
        words = " ".join(str(error).split())[:200]
        raise Refused(f"{url.rpartition('/')[2]}: the Kubernetes API: {words}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
