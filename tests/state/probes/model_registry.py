"""Probes of the model registry: what is pushed is read, and who is refused where."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import requests

from model_repo.oci import OciError, Registry, described, digest_of, image_manifest
from tests.state.probes import ProbeContext, probe

TIMEOUT_S = 15.0
_CONFIG = "application/vnd.oci.empty.v1+json"
_FILE = "application/octet-stream"
Secret = Mapping[str, str]


def _authority(ctx: ProbeContext, ca: Secret) -> Path:
    file = ctx.tmp / "ca.crt"
    file.write_bytes(ctx.secret(ca))
    return file


def _words(error: OciError) -> str:
    return f"{error.thing}: {error.words}"


@probe("model_registry_round_trip")
def round_trip(
    ctx: ProbeContext,
    *,
    publish_url: str,
    read_url: str,
    publisher: Secret,
    reader: Secret,
    ca: Secret,
    repository: str,
) -> str:
    """An artifact of random bytes goes in at one door and comes out of the other, the same."""
    authority = _authority(ctx, ca)
    content, about = secrets.token_bytes(512), b"{}"
    layer, config = described(_FILE, content), described(_CONFIG, about)
    manifest = image_manifest(config, [layer])
    writes = Registry(
        publish_url, ("publisher", ctx.secret(publisher).decode()), ca=authority, writes=True
    )
    reads = Registry(read_url, ("reader", ctx.secret(reader).decode()), ca=authority)
    try:
        writes.put_bytes(repository, layer, content)
        writes.put_bytes(repository, config, about)
        # By its digest alone: checks leave no tags behind.
        digest = writes.put_manifest(repository, digest_of(manifest), manifest)
        again = writes.put_manifest(repository, digest, manifest)
        found, read = reads.manifest(repository, digest)
        came = b"".join(reads.blob(repository, layer))
    except OciError as error:
        raise AssertionError(_words(error)) from None
    assert again == read == digest, f"{digest} became {again}, and is read as {read}"
    assert (found, came) == (manifest, content), f"{digest}: other bytes came than went in"
    return f"{digest[:19]} pushed and read"


def _push(url: str, user: tuple[str, str] | None, repository: str, authority: Path) -> int:
    """The status of an attempt to begin an upload."""
    answer = requests.post(
        f"{url}/v2/{repository}/blobs/uploads/",
        auth=user,
        verify=str(authority),
        timeout=TIMEOUT_S,
        allow_redirects=False,
    )
    return answer.status_code


def _look(url: str, user: tuple[str, str] | None, authority: Path) -> int:
    """The status of the protocol's first question, which asks for a user."""
    answer = requests.get(
        f"{url}/v2/", auth=user, verify=str(authority), timeout=TIMEOUT_S, allow_redirects=False
    )
    return answer.status_code


@probe("model_registry_read_only")
def read_only(
    ctx: ProbeContext,
    *,
    publish_url: str,
    read_url: str,
    publisher: Secret,
    reader: Secret,
    ca: Secret,
    repository: str,
) -> str:
    """The reader gets in at his door, and cannot begin an upload at that or the other one."""
    authority, user = _authority(ctx, ca), ("reader", ctx.secret(reader).decode())
    inside = _look(read_url, user, authority)
    assert inside == 200, f"{read_url}: the reader is answered with {inside}, not 200"
    found = []
    for url in (read_url, publish_url):
        status = _push(url, user, repository, authority)
        # 405: this door takes nothing; 401 and 403: not of this user.
        assert status in (401, 403, 405), f"{url}: an upload by the reader is answered {status}"
        found.append(str(status))
    return f"reads; uploads are refused with {' and '.join(found)}"


@probe("model_registry_password")
def password(
    ctx: ProbeContext,
    *,
    publish_url: str,
    read_url: str,
    publisher: Secret,
    reader: Secret,
    ca: Secret,
    repository: str,
) -> str:
    """401 for a wrong password and for none, at both doors; the right one gets in."""
    authority = _authority(ctx, ca)
    for url, name, secret in (
        (publish_url, "publisher", publisher),
        (read_url, "reader", reader),
    ):
        right = ctx.secret(secret).decode()
        status = _look(url, (name, right), authority)
        assert status == 200, f"{url}: {name} is answered with {status}, not 200"
        status = _look(url, (name, f"{right}-wrong"), authority)
        assert status == 401, f"{url}: {name} by a wrong password is answered with {status}"
        status = _look(url, None, authority)
        assert status == 401, f"{url}: nobody at all is answered with {status}"
    return "a wrong password and none are answered with 401 at both doors"


@probe("model_registry_token")
def token(ctx: ProbeContext, *, url: str, user: Mapping[str, Secret], repository: str) -> str:
    """A registry that is not the cluster's takes the reader's Secret for reading alone."""
    name, password = (ctx.secret(user[part]).decode() for part in ("username", "password"))
    registry = Registry(url, (name, password))
    content = secrets.token_bytes(32)
    try:
        # A tag that no version has: that it is not there is known to whoever may read alone.
        registry.digest(repository, "estate-verify")
    except OciError as error:
        raise AssertionError(_words(error)) from None
    try:
        registry.put_bytes(repository, described(_FILE, content), content)
    except OciError as error:
        assert error.status in (401, 403), _words(error)
        return f"reads {repository}; an upload is refused with {error.status}"
    raise AssertionError(f"{repository}: the reader has stored 32 bytes")
