"""What the client of a registry believes, and what it refuses."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from model_repo.oci import Descriptor, NotThere, OciError, Registry, digest_of
from tests.unit.model_repo.registry import MemoryRegistry
from tests.unit.rehearsal.authority import authority

SERVER_NAME = "model-registry.example"
CONTENT = b"weights" * 1000
BLOB = Descriptor("application/octet-stream", digest_of(CONTENT), len(CONTENT))


@pytest.fixture
def registry(server: MemoryRegistry) -> Registry:
    made = Registry(server.url, ("me", "s3cret"))
    made.put_blob("a/b", BLOB, lambda: BytesIO(CONTENT))
    return made


def read(registry: Registry, blob: Descriptor = BLOB) -> bytes:
    return b"".join(registry.blob("a/b", blob))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A registry by TLS, whose certificate does not name its address; and who signed that."""
    authority(tmp_path, host=SERVER_NAME)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "ca.crt", tmp_path / "ca.key")
    made = MemoryRegistry(tls)
    yield made.url, tmp_path / "ca.crt"
    made.close()


def test_the_certificate_may_name_another_than_the_address(
    elsewhere: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, ca = elsewhere
    # A proxy of the user's is not asked for a port of this machine.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    named = Registry(url, ca=ca, server_name=SERVER_NAME)
    assert named.put_blob("a/b", BLOB, lambda: BytesIO(CONTENT))
    assert read(named) == CONTENT
    for wrong in (None, "another.example"):
        with pytest.raises(OciError, match="does not answer"):
            Registry(url, ca=ca, server_name=wrong).digest("a/b", "1")


def test_another_authority_is_not_believed_whatever_the_name(
    elsewhere: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    authority(other, host=SERVER_NAME)
    with pytest.raises(OciError, match="does not answer"):
        Registry(elsewhere[0], ca=other / "ca.crt", server_name=SERVER_NAME).digest("a/b", "1")


def test_a_blob_is_sent_once(server: MemoryRegistry, registry: Registry) -> None:
    assert read(registry) == CONTENT
    assert not registry.put_blob("a/b", BLOB, lambda: BytesIO(CONTENT))
    assert [method for method, *_ in server.asked].count("PUT") == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1] + b"!",
        lambda content: content[:-1],
        lambda content: content + b"!",
        lambda content: b"",
    ],
    ids=["changed", "cut", "longer", "empty"],
)
def test_another_content_than_asked_for_is_refused(
    server: MemoryRegistry, registry: Registry, spoil: object
) -> None:
    server.spoil = lambda _, content: spoil(content)  # type: ignore[operator]
    with pytest.raises(OciError, match="bytes"):
        read(registry)


def test_a_manifest_must_have_the_digest_that_was_asked_for(
    server: MemoryRegistry, registry: Registry
) -> None:
    digest = registry.put_manifest("a/b", "1", b'{"a":1}')
    assert registry.manifest("a/b", digest) == (b'{"a":1}', digest)
    server.spoil = lambda path, content: b'{"a":2}'
    with pytest.raises(OciError, match="gave a manifest"):
        registry.manifest("a/b", digest)


def test_a_manifest_must_have_the_digest_that_the_registry_says(
    server: MemoryRegistry, registry: Registry
) -> None:
    registry.put_manifest("a/b", "1", b"{}")
    server.headers["Docker-Content-Digest"] = digest_of(b"another")
    with pytest.raises(OciError, match="gave a manifest"):
        registry.manifest("a/b", "1")


def test_what_is_not_there(registry: Registry) -> None:
    with pytest.raises(NotThere, match="MANIFESTS_UNKNOWN"):
        registry.manifest("a/b", "7")
    assert registry.digest("a/b", "7") is None


def test_a_token_is_asked_for_once(server: MemoryRegistry, registry: Registry) -> None:
    server.token, server.asked = "t0k3n", []
    assert read(registry) == read(registry) == CONTENT
    said = [authorization for _, path, authorization in server.asked if "/blobs/" in path]
    assert [words.split()[0] for words in said] == ["Basic", "Bearer", "Bearer"]
    assert sum(path.startswith("/token") for _, path, _ in server.asked) == 1


def test_credentials_go_nowhere_else(server: MemoryRegistry, registry: Registry) -> None:
    new = Descriptor("x", digest_of(b"new"), 3)
    host = server.url.removeprefix("http://")
    for place in ("http://elsewhere.example", f"https://{host}", f"http://me@{host}1", "http://["):
        server.upload_at = place
        with pytest.raises(OciError, match=r"the registry leads to .*: not followed"):
            registry.put_blob("a/b", new, lambda: BytesIO(b"new"))


def test_a_token_is_asked_for_where_it_is_safe(server: MemoryRegistry, registry: Registry) -> None:
    server.token = "t0k3n"
    server.headers["WWW-Authenticate"] = 'Bearer realm="http://elsewhere.example/",service="x"'
    with pytest.raises(OciError, match=r"asks for a token of .*: not followed"):
        read(registry)


def test_what_another_place_asks_for_is_not_given(
    server: MemoryRegistry, registry: Registry
) -> None:
    other = MemoryRegistry()
    other.token = "t0k3n"
    server.redirect = f"{other.url}/v2/a/b/blobs/{BLOB.digest}"
    try:
        with pytest.raises(OciError, match="401"):
            read(registry)
    finally:
        other.close()
    assert [said for *_, said in other.asked] == [""], "neither a password nor a token"


def test_a_blob_comes_from_where_the_registry_leads_and_no_password_goes_there(
    server: MemoryRegistry, registry: Registry
) -> None:
    """ECR answers with 307 and a signed address of S3, which refuses a second authorization."""
    store = MemoryRegistry()
    Registry(store.url).put_blob("a/b", BLOB, lambda: BytesIO(CONTENT))
    store.asked = []
    signed = f"/v2/a/b/blobs/{BLOB.digest}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0a"
    server.redirect = store.url + signed
    try:
        assert read(registry) == CONTENT
        # What comes from there is believed as little.
        store.spoil = lambda _, content: content[:-1] + b"!"
        with pytest.raises(OciError, match="damaged"):
            read(registry)
    finally:
        store.close()
    assert store.asked == [("GET", signed, "")] * 2
    assert server.asked[-1][2].startswith("Basic ")


def test_a_wrong_password_where_no_token_is_asked_for_is_said_once(
    server: MemoryRegistry, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ECR takes user and password themselves, and asks for them by Basic."""
    challenge = {"WWW-Authenticate": 'Basic realm="https://registry.example/",service="ecr"'}
    monkeypatch.setattr(server, "answer", lambda *_: (401, challenge, b"Not Authorized\n"))
    server.asked = []
    with pytest.raises(OciError, match="401 Not Authorized"):
        read(registry)
    assert len(server.asked) == 1


def test_a_redirected_write_has_stored_nothing(server: MemoryRegistry, registry: Registry) -> None:
    server.redirect = f"{server.url}/elsewhere"
    with pytest.raises(OciError, match="307"):
        registry.put_manifest("a/b", "1", b"{}")


def test_tags_come_in_pages(server: MemoryRegistry, registry: Registry) -> None:
    server.page = 2
    for number in range(5):
        registry.put_manifest("a/b", str(number), b"{}")
    assert registry.tags("a/b") == ["0", "1", "2", "3", "4"]


def test_a_password_is_sent_as_utf_8(server: MemoryRegistry) -> None:
    server.asked = []
    assert Registry(server.url, ("me", "pä€")).digest("a/b", "1") is None
    assert base64.b64decode(server.asked[0][2].split()[1]).decode() == "me:pä€"


@pytest.mark.parametrize(
    "url",
    ["registry:5000", "ftp://a", "https://me:pw@host", "https://:pw@host", "https://", "https://["],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(OciError, match="the registry's address: is none") as found:
        Registry(url)
    assert "pw" not in str(found.value)


def test_no_password_goes_over_a_network_in_clear() -> None:
    with pytest.raises(OciError, match="use https"):
        Registry("http://registry.example:5000")


@pytest.mark.parametrize("name", ["A/b", "../b", "a//b", "a b", ""])
def test_names_that_are_none(registry: Registry, name: str) -> None:
    with pytest.raises(OciError, match="is no repository's name"):
        registry.manifest(name, "1")


@pytest.mark.parametrize("reference", ["", "a/b", "-a", "sha256:abc", "sha512:" + "0" * 128])
def test_references_that_are_none(registry: Registry, reference: str) -> None:
    with pytest.raises(OciError, match="digest"):
        registry.manifest("a/b", reference)


def test_a_registry_that_does_not_answer(server: MemoryRegistry, registry: Registry) -> None:
    server.close()
    with pytest.raises(OciError, match="does not answer"):
        Registry(server.url).manifest("a/b", "1")
