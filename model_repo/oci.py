"""A client of the OCI Distribution protocol (1.1) that believes no byte before it has hashed it.

Why not oras-py: it verifies neither manifests nor blobs against their digests (oras-py issue 247).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode, urljoin, urlsplit

import requests

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_TIMEOUT_S = (10.0, 120.0)
_PIECE = 1 << 20
_MANIFEST_MOST = 4 << 20
"""Bytes; what registries take at most (OCI Distribution 1.1, "Pushing Manifests")."""
_ANSWER_MOST = 1 << 20
_PAGES_MOST = 1000
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


class OciError(Exception):
    """What the registry said, or what is wrong with what it gave. `status`: of HTTP, if any."""

    def __init__(self, thing: str, words: str, status: int | None = None) -> None:
        super().__init__(f"{thing}: {words}")
        self.thing, self.words, self.status = thing, words, status


class NoAnswer(OciError):
    """The registry was not reached, or broke off: asking again may help."""


class NotThere(OciError):
    """The registry has no such repository, manifest or blob."""


@dataclass(frozen=True)
class Descriptor:
    """What a manifest says of a blob."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        found: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        return found | ({"annotations": dict(self.annotations)} if self.annotations else {})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Descriptor:
        """Raises OciError when it is none."""
        try:
            size = value["size"]
            if not isinstance(size, int) or size < 0:
                raise ValueError
            annotations = value.get("annotations") or {}
            return cls(
                str(value["mediaType"]),
                checked_digest(str(value["digest"])),
                size,
                {str(key): str(text) for key, text in annotations.items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise OciError("a descriptor", f"is none: {str(value)[:200]}") from None


def described(
    media_type: str, content: bytes, annotations: Mapping[str, str] | None = None
) -> Descriptor:
    """What a manifest says of these bytes."""
    return Descriptor(media_type, digest_of(content), len(content), annotations or {})


def image_manifest(config: Descriptor, layers: Sequence[Descriptor], **more: Any) -> bytes:
    """A manifest as OCI's image specification has it, with further properties."""
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in layers],
            **more,
        }
    )


def canonical(value: Any) -> bytes:
    """JSON: the same value gives the same bytes, and so the same digest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_of(content: bytes) -> str:
    """`sha256:...` of these bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def checked_digest(text: str) -> str:
    """The digest itself. Raises OciError when it is no SHA-256: others are not taken."""
    if not _DIGEST.fullmatch(text):
        raise OciError(repr(text), "is no digest: use sha256: and 64 hexadecimal digits")
    return text


def is_digest(reference: str) -> bool:
    """Whether a reference is a digest; it is a tag otherwise."""
    return reference.startswith("sha256:")


class Registry:
    """One registry, spoken to as a user, or as nobody.

    Args:
        url: `https://host[:port][/path]`; the path comes before every repository's name. Plain
            http is taken for this machine's own addresses alone.
        credentials: user and password. A registry that wants a token (Bearer) gets them for one.
        ca: a file with the authorities to trust instead of certifi's.
        server_name: whom the certificate must name, if that is not the address: of a registry that
            is reached by a port of this machine. No proxy is used then.
        writes: tokens are asked for with the right to push.
    """

    def __init__(
        self,
        url: str,
        credentials: tuple[str, str] | None = None,
        *,
        ca: Path | None = None,
        server_name: str | None = None,
        writes: bool = False,
    ) -> None:
        origin = _origin(url)
        # Nothing of an address with a user in it is repeated: it may hold a password.
        if origin is None or "@" in url:
            raise OciError(
                "the registry's address", "is none: use https://host[:port][/path], no user in it"
            )
        if origin[0] == "http" and origin[1] not in _LOOPBACK:
            raise OciError(url, "would send passwords in clear: use https")
        parts = urlsplit(url)
        self.host = parts.netloc
        self._origin = origin
        self._root = f"{parts.scheme}://{parts.netloc}/v2/"
        self._prefix = parts.path.strip("/")
        self._credentials = credentials
        self._verify: bool | str = True if ca is None else str(ca)
        self._actions = "pull,push" if writes else "pull"
        self._session = requests.Session()
        # A user's proxy counts, a .netrc does not: what is sent is what was given.
        self._session.auth = _as_it_is
        if server_name is not None:
            self._session.trust_env = False
            self._session.mount("https://", _Named(server_name))
        self._tokens: dict[str, str] = {}

    def full_name(self, repository: str) -> str:
        """The repository's name in the registry. Raises OciError when it can be none."""
        name = f"{self._prefix}/{repository}" if self._prefix else repository
        if not _NAME.fullmatch(name):
            raise OciError(repr(name), "is no repository's name: lower case, digits, . _ - and /")
        return name

    # -- reading --------------------------------------------------------------------------------

    def manifest(self, repository: str, reference: str) -> tuple[bytes, str]:
        """A manifest's bytes and its digest, by tag or by digest. Raises NotThere."""
        thing = f"{repository}:{reference}"
        url = self._url(repository, "manifests", _reference(reference))
        answer = self._ask("GET", url, repository, thing, headers={"Accept": MANIFEST})
        content = b"".join(_pieces(answer, thing, _MANIFEST_MOST))
        digest = digest_of(content)
        said = answer.headers.get("Docker-Content-Digest", digest)
        wanted = reference if is_digest(reference) else said
        if digest != wanted:
            raise OciError(thing, f"the registry gave a manifest {digest}, not {wanted[:80]}")
        return content, digest

    def digest(self, repository: str, reference: str) -> str | None:
        """What a tag leads to, or None. The manifest itself is read: a header proves nothing."""
        try:
            return self.manifest(repository, reference)[1]
        except NotThere:
            return None

    def blob(self, repository: str, what: Descriptor) -> Iterator[bytes]:
        """A blob in pieces. Raises OciError at its end when they are not what was asked for.

        Nothing of it may be used before the end.
        """
        thing = f"{repository}@{what.digest}"
        url = self._url(repository, "blobs", checked_digest(what.digest))
        found, length = hashlib.sha256(), 0
        for piece in _pieces(self._ask("GET", url, repository, thing), thing, what.size):
            found.update(piece)
            length += len(piece)
            yield piece
        if length != what.size or f"sha256:{found.hexdigest()}" != what.digest:
            raise OciError(
                thing,
                f"{length} bytes with SHA-256 {found.hexdigest()[:12]} came, {what.size} bytes of "
                "another content were asked for: the registry's copy is damaged",
            )

    def tags(self, repository: str) -> list[str]:
        """All tags. Raises NotThere for a repository without any."""
        url = self._url(repository, "tags", "list")
        found: list[str] = []
        for _ in range(_PAGES_MOST):
            answer = self._ask("GET", url, repository, repository)
            page = _json(answer, repository).get("tags") or []
            found += [tag for tag in page if isinstance(tag, str)]
            following = answer.links.get("next", {}).get("url")
            if not following:
                return sorted(set(found))
            url = self._own(url, following, repository)
        raise OciError(repository, f"has more than {_PAGES_MOST} pages of tags")

    # -- writing --------------------------------------------------------------------------------

    def put_blob(
        self,
        repository: str,
        what: Descriptor,
        content: Callable[[], BinaryIO],
    ) -> bool:
        """Store a blob unless it is there; whether it had to be sent.

        `content` opens its bytes, which the registry verifies against the digest.
        """
        thing = f"{repository}@{what.digest}"
        url = self._url(repository, "blobs", checked_digest(what.digest))
        try:
            self._ask("HEAD", url, repository, thing)
            return False
        except NotThere:
            pass
        uploads = self._url(repository, "blobs", "uploads/")
        begun = self._ask("POST", uploads, repository, thing)
        place = self._own(uploads, begun.headers.get("Location", ""), thing)
        joined = "&" if urlsplit(place).query else "?"
        headers = {"Content-Type": "application/octet-stream"}
        final = f"{place}{joined}digest={what.digest}"
        self._ask("PUT", final, repository, thing, headers=headers, body=content)
        return True

    def put_bytes(self, repository: str, what: Descriptor, content: bytes) -> None:
        """Store a small blob unless it is there."""
        self.put_blob(repository, what, lambda: BytesIO(content))

    def put_manifest(self, repository: str, reference: str, content: bytes) -> str:
        """Store a manifest under a tag or its digest; its digest."""
        digest = digest_of(content)
        if is_digest(reference) and reference != digest:
            raise OciError(f"{repository}@{reference}", f"its manifest's digest is {digest}")
        self._ask(
            "PUT",
            self._url(repository, "manifests", _reference(reference)),
            repository,
            f"{repository}:{reference}",
            headers={"Content-Type": MANIFEST},
            body=lambda: BytesIO(content),
        )
        return digest

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Delete a manifest with all of its tags. Raises NotThere.

        Its blobs are freed by the registry's own garbage collection.
        """
        url = self._url(repository, "manifests", checked_digest(digest))
        self._ask("DELETE", url, repository, f"{repository}@{digest}", actions="delete")

    # -- asking ---------------------------------------------------------------------------------

    def _url(self, repository: str, kind: str, what: str) -> str:
        return f"{self._root}{self.full_name(repository)}/{kind}/{what}"

    def _own(self, base: str, place: str, thing: str) -> str:
        """Where it leads on: credentials go to the registry alone, and as it was named."""
        try:
            url = urljoin(base, place)
        except ValueError:
            url = ""
        if _origin(url) != self._origin:
            raise OciError(thing, f"the registry leads to {place[:200]!r}: not followed")
        return url

    def _ask(
        self,
        method: str,
        url: str,
        repository: str,
        thing: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], BinaryIO] | None = None,
        actions: str | None = None,
    ) -> requests.Response:
        """An answer of the status that the protocol has for success, its body not yet read."""
        scope = f"repository:{self.full_name(repository)}:{actions or self._actions}"
        for first in (True, False):
            answer = self._once(method, url, thing, {**(headers or {}), **self._as(scope)}, body)
            challenge = answer.headers.get("WWW-Authenticate", "")
            # One of the place that a blob was redirected to is nobody's business.
            ours = _origin(answer.url) == self._origin and challenge[:7].lower() == "bearer "
            if first and answer.status_code == 401 and ours:
                answer.close()
                self._tokens[scope] = self._token(challenge, scope, thing)
                continue
            break
        if answer.status_code == _SUCCESS[method]:
            return answer
        words = _words(answer)
        kind = NotThere if answer.status_code == 404 else OciError
        raise kind(thing, words, answer.status_code)

    def _once(
        self,
        method: str,
        url: str,
        thing: str,
        headers: Mapping[str, str],
        body: Callable[[], BinaryIO] | None = None,
    ) -> requests.Response:
        try:
            with body() if body else nullcontext() as data:
                return self._session.request(
                    method,
                    url,
                    headers=headers,
                    data=data,
                    stream=True,
                    timeout=_TIMEOUT_S,
                    verify=self._verify,
                    # A blob may lie elsewhere (S3, a CDN): requests drops credentials then.
                    allow_redirects=method in ("GET", "HEAD"),
                )
        except requests.RequestException as error:
            raise NoAnswer(thing, f"{self.host} does not answer: {error}") from None

    def _as(self, scope: str) -> dict[str, str]:
        if token := self._tokens.get(scope):
            return {"Authorization": f"Bearer {token}"}
        return self._basic()

    def _basic(self) -> dict[str, str]:
        if self._credentials is None:
            return {}
        joined = ":".join(self._credentials).encode()
        return {"Authorization": f"Basic {base64.b64encode(joined).decode()}"}

    def _token(self, challenge: str, scope: str, thing: str) -> str:
        """A token by the challenge of a 401 (Docker's token authentication)."""
        said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = said.get("realm", "")
        origin = _origin(realm)
        if origin is None or (origin[0] != "https" and origin != self._origin):
            raise OciError(thing, f"the registry asks for a token of {realm[:200]!r}: not followed")
        asked = urlencode({"service": said.get("service", ""), "scope": scope})
        joined = "&" if urlsplit(realm).query else "?"
        answer = self._once("GET", f"{realm}{joined}{asked}", thing, self._basic())
        if answer.status_code != 200:
            raise OciError(thing, f"no token: {_words(answer)}", answer.status_code)
        found = _json(answer, thing)
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise OciError(thing, "no token is in the answer of the registry's realm")
        return token


_SUCCESS = {"GET": 200, "HEAD": 200, "POST": 202, "PUT": 201, "DELETE": 202}


class _Named(requests.adapters.HTTPAdapter):
    """Connections that name a host and verify it, wherever they lead."""

    def __init__(self, host: str) -> None:
        self._host = host
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """As of requests, with the host's name for every connection."""
        kwargs |= {"server_hostname": self._host, "assert_hostname": self._host}
        super().init_poolmanager(*args, **kwargs)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port, or None when it is no address of HTTP."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


def _reference(text: str) -> str:
    if is_digest(text):
        return checked_digest(text)
    if not _TAG.fullmatch(text):
        raise OciError(repr(text), "is neither a tag nor a digest")
    return text


def _pieces(answer: requests.Response, thing: str, most: int) -> Iterator[bytes]:
    """The answer's bytes, and none after `most`."""
    length = 0
    with answer:
        try:
            for piece in answer.iter_content(_PIECE):
                length += len(piece)
                if length > most:
                    raise OciError(thing, f"more than {most} bytes came")
                yield piece
        except requests.RequestException as error:
            raise NoAnswer(thing, f"broke off: {error}") from None


def parsed(content: bytes, thing: str) -> dict[str, Any]:
    """A JSON object. Raises OciError when it is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise OciError(thing, "is no JSON object")
    return value


def objects(value: Any, thing: str) -> Sequence[Mapping[str, Any]]:
    """A list of JSON objects. Raises OciError when it is none."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise OciError(thing, "has no list of descriptors")
    return value


def _json(answer: requests.Response, thing: str) -> dict[str, Any]:
    return parsed(b"".join(_pieces(answer, thing, _ANSWER_MOST)), thing)


def _words(answer: requests.Response) -> str:
    """What an error's body says, as one line."""
    try:
        content = b"".join(_pieces(answer, "an error", _ANSWER_MOST))
    except OciError:
        content = b""
    try:
        errors = parsed(content, "")["errors"]
        text = "; ".join(f"{one['code']}: {one.get('message', '')}" for one in errors)
    except (OciError, KeyError, TypeError, AttributeError):
        text = content.decode(errors="replace")
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return f"{answer.status_code} {' '.join(line.split())[:300] or answer.reason}"
