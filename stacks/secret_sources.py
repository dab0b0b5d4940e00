"""Reads secrets where their references point: environment, files, Vault, AWS Secrets Manager.

Not named secrets.py: Pulumi runs Python in this folder, where that would hide the standard
library's module. A document that has several of the referenced keys is fetched once. What is
raised names the reference, the answer's status and the way out, never a value.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import botocore.session
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError
from urllib3.util import Retry

from components.model import AwsSecretRef, SecretRef
from configs.errors import ConfigError

SECRETS_VARIABLE = "ESTATE_SECRETS"
TIMEOUT_S = 10.0
"""For one answer of Vault or AWS; a preview must not hang on a network that drops packets."""

_BUSY = Retry(
    connect=0,
    read=0,
    status=2,
    status_forcelist=(412, 429, 500, 502, 504),
    backoff_factor=0.2,
    raise_on_status=False,
)
"""What Vault's own client tries again: 412 is a replica that lags, 503 is sealed and stays so."""
_VAULT_SAYS = {
    400: "Vault does not take the request; is the mount a KV engine of version 2?",
    403: "the token may not read it; vault login with a policy that may, or renew it",
    404: "no such secret, or its newest version is deleted; put one, or mend mount and path",
    503: "Vault is sealed or in maintenance; unseal it and run again",
}
_AWS_SAYS = {
    "ResourceNotFoundException": "no such secret; create it, or mend secret_id and region",
    "AccessDeniedException": "grant secretsmanager:GetSecretValue to this identity",
    "ExpiredTokenException": "the session has ended; log in again (aws sso login)",
    "UnrecognizedClientException": "the credentials are not valid; log in again",
    "InvalidRequestException": "it is marked for deletion; restore it: aws secretsmanager "
    "restore-secret",
}


class _Silent(ConfigError):
    """A source that gives no answer at all."""


class SecretSources:
    """Reads the value behind a reference; `folder` holds those that are files."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        # Documents by where they are: several references may name keys of one.
        self._documents: dict[tuple[Any, ...], Any] = {}
        self._silent: dict[Any, _Silent] = {}

    def read(self, ref: SecretRef) -> str:
        """The value. Raises ConfigError when it cannot be had, or is empty.

        References to Pulumi's own configuration are not for here: the engine decrypts those.
        """
        if ref.env is not None:
            if not (value := os.environ.get(ref.env, "")):
                raise ConfigError(f"{ref.env}: this environment variable is empty; export it")
            return value
        if ref.vault is not None:
            document = self._once(_vault_document, ref.vault.mount, ref.vault.path)
            return _value(ref, document, ref.vault.key)
        if ref.aws is not None:
            text = self._once(_aws_document, ref.aws.secret_id, ref.aws.region)
            return _of_aws(ref, ref.aws, text)
        assert ref.file is not None
        return self._file(ref.file)

    def _once(self, fetch: Callable[..., Any], *where: str | None) -> Any:
        """The document that `fetch` finds; a source once silent is not waited for again."""
        if fetch in self._silent:
            raise self._silent[fetch]
        if (key := (fetch, *where)) not in self._documents:
            try:
                self._documents[key] = fetch(*where)
            except _Silent as error:
                self._silent[fetch] = error
                raise
        return self._documents[key]

    def _file(self, name: str) -> str:
        if self._folder is None:
            raise ConfigError(
                f"secret file {name}: {SECRETS_VARIABLE} names no folder; "
                "source <(./estate env), or export it"
            )
        path = self._folder / name
        try:
            if not path.resolve().is_relative_to(self._folder.resolve()):
                raise ConfigError(f"{path}: leads out of the secrets folder; put the file into it")
            text = path.read_text(encoding="utf-8").removesuffix("\n")
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror}; ./estate up makes the rehearsal's secrets"
            ) from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: is no text in UTF-8; store it as such") from None
        except (ValueError, RuntimeError):  # a NUL in the name, links in a circle
            raise ConfigError(f"secret file {name!r}: no name of a file; mend it") from None
        lines = 1 if text.startswith("-----BEGIN ") else len(text.splitlines())
        if not text.strip() or lines > 1:
            raise ConfigError(f"{path}: one line with the secret, or a PEM, is expected")
        if text != text.strip():
            raise ConfigError(f"{path}: blanks around the secret; remove them")
        return text


def _value(ref: SecretRef, document: Mapping[str, Any], key: str) -> str:
    """One key's value, which must be text that is not empty."""
    if key not in document:
        known = ", ".join(sorted(document)) or "none"
        raise ConfigError(f"{ref.source}: no such key (there are: {known}); add it or mend key")
    value = document[key]
    if not isinstance(value, str) or not value:
        kind = "empty" if value == "" else type(value).__name__
        raise ConfigError(f"{ref.source}: {kind} where text is expected; write it as a string")
    return value


# -- Vault ---------------------------------------------------------------------------------------


def _vault_document(mount: str, path: str) -> dict[str, Any]:
    """All keys of a secret's newest version (`GET /v1/<mount>/data/<path>`).

    Address, token, namespace and authority as Vault's own client takes them: VAULT_ADDR,
    VAULT_TOKEN or what `vault login` left in ~/.vault-token, VAULT_NAMESPACE, VAULT_CACERT.
    """
    where = f"vault {mount}/{path}"
    address = os.environ.get("VAULT_ADDR", "").rstrip("/")
    if not address:
        raise ConfigError(f"{where}: VAULT_ADDR is empty; export the address of Vault")
    headers = {"X-Vault-Token": _vault_token(where), "X-Vault-Request": "true"}
    if namespace := os.environ.get("VAULT_NAMESPACE"):
        headers["X-Vault-Namespace"] = namespace
    with requests.Session() as session:
        session.mount(address, requests.adapters.HTTPAdapter(max_retries=_BUSY))
        try:
            answer = session.get(
                f"{address}/v1/{mount}/data/{path}",
                headers=headers,
                timeout=TIMEOUT_S,
                # The token would go along, and the answer be taken from whoever is named.
                allow_redirects=False,
                verify=os.environ.get("VAULT_CACERT") or True,
            )
        except (requests.RequestException, OSError) as error:
            # The class and not the text: that has the request in it, on several lines.
            raise _Silent(
                f"{where}: {_origin(address)} does not answer ({type(error).__name__}); "
                "mend VAULT_ADDR or VAULT_CACERT, or run where Vault can be reached"
            ) from None
    if answer.is_redirect:
        to = _origin(urljoin(address, answer.headers["Location"]))
        raise ConfigError(
            f"{where}: {_origin(address)} sends on to {to}, where no token is sent; "
            "export the address of the Vault that answers as VAULT_ADDR"
        )
    if answer.status_code != 200:
        words = _VAULT_SAYS.get(answer.status_code, "see Vault's log and run again")
        raise ConfigError(f"{where}: status {answer.status_code}: {words}")
    try:
        found = answer.json()["data"]["data"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{where}: not the answer of a KV engine of version 2; mend the mount")
    return found


def _origin(address: str) -> str:
    """What of an address may be shown: no user, no password, no query."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        return "an address that is none"
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def _vault_token(where: str) -> str:
    if token := os.environ.get("VAULT_TOKEN", "").strip():
        return token
    try:
        token = (Path.home() / ".vault-token").read_text(encoding="utf-8").strip()
    except OSError:
        token = ""
    if not token:
        raise ConfigError(f"{where}: no token; vault login, or export VAULT_TOKEN")
    return token


# -- AWS -----------------------------------------------------------------------------------------


def _aws_document(secret_id: str, region: str | None) -> str:
    """The current version's text; credentials and region as the AWS CLI finds them."""
    where = f"aws {secret_id}"
    parts = secret_id.split(":")
    if region is None and parts[0] == "arn" and len(parts) > 3:
        region = parts[3]
    config = Config(
        connect_timeout=TIMEOUT_S,
        read_timeout=TIMEOUT_S,
        retries={"total_max_attempts": 3, "mode": "standard"},
    )
    try:
        client = botocore.session.Session().create_client("secretsmanager", region, config=config)
        answer = client.get_secret_value(SecretId=secret_id)
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "unknown")
        code = error.response.get("Error", {}).get("Code", "")
        words = _AWS_SAYS.get(code, "see AWS's documentation of this error")
        raise ConfigError(f"{where}: status {status}, {code}: {words}") from None
    except (ConnectionError, HTTPClientError) as error:
        raise _Silent(
            f"{where}: AWS does not answer ({type(error).__name__}); mend region or proxy, or run "
            "where AWS can be reached"
        ) from None
    except BotoCoreError as error:
        # Their texts name no value: what lacks (region, credentials), or which address is silent.
        words = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{where}: {words}; log in (aws sso login) or export AWS_REGION"
        ) from None
    text = answer.get("SecretString")
    if not isinstance(text, str):
        raise ConfigError(f"{where}: is binary; store it as text (--secret-string)")
    return text


def _of_aws(ref: SecretRef, reference: AwsSecretRef, text: str) -> str:
    if reference.key is None:
        return _value(ref, {"": text}, "")
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ConfigError(f"{ref.source}: it is no JSON object; leave key out, or store one")
    return _value(ref, document, reference.key)
