from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from moto import mock_aws

from components.model import SecretRef
from configs.errors import ConfigError
from stacks import secret_sources
from stacks.secret_sources import SecretSources
from tests.vault_server import TOKEN, Vault, serving

VALUE = "canary-of-the-test"


def vault_ref(key: str = "admin", **values: str) -> SecretRef:
    return SecretRef.model_validate({"vault": {"path": "data-lake/kafka", "key": key, **values}})


def aws_ref(**values: str) -> SecretRef:
    return SecretRef.model_validate({"aws": {"secret_id": "estate/kafka", **values}})


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE", "VAULT_CACERT", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    with serving() as server:
        monkeypatch.setenv("VAULT_ADDR", server.address)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        server.secrets["secret/data/data-lake/kafka"] = {"admin": VALUE, "bridge": "other"}
        yield server


def refused(ref: SecretRef, sources: SecretSources | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        (sources or SecretSources(None)).read(ref)
    text = str(caught.value)
    assert "\n" not in text and VALUE not in text and TOKEN not in text
    return text


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff" + VALUE.encode(), "no text in UTF-8"),
        (b" ", "one line with the secret"),
        (b"", "one line with the secret"),
        (VALUE.encode() + b"\nmore", "one line with the secret"),
        (VALUE.encode() + b" \n", "blanks around the secret; remove them"),
    ],
)
def test_a_file_that_is_no_line_of_text_is_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "one").write_bytes(content)
    assert words in refused(SecretRef(file="one"), SecretSources(tmp_path))


def test_a_file_is_read_in_the_folder_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(VALUE)
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "inside").write_text(VALUE + "\n")
    (folder / "link").symlink_to("inside")
    (folder / "out").symlink_to("../outside")
    sources = SecretSources(folder)
    assert sources.read(SecretRef(file="inside")) == sources.read(SecretRef(file="link")) == VALUE
    assert "leads out of the secrets folder" in refused(SecretRef(file="out"), sources)
    assert "No such file" in refused(SecretRef(file="gone"), sources)
    nul = SecretRef.model_construct(file="a\0b")
    assert "no name of a file" in refused(nul, sources)


# -- Vault ---------------------------------------------------------------------------------------


def test_a_document_of_vault_is_fetched_once_for_all_its_keys(vault: Vault) -> None:
    sources = SecretSources(None)
    assert [sources.read(vault_ref()) for _ in range(3)] == [VALUE] * 3
    assert sources.read(vault_ref("bridge")) == "other"
    assert vault.asked == {"secret/data/data-lake/kafka": 1}


def test_mount_and_namespace_are_as_they_are_given(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.secrets["teams/one/data/data-lake/kafka"] = {"admin": "of another mount"}
    monkeypatch.setenv("VAULT_NAMESPACE", "estate")
    assert SecretSources(None).read(vault_ref(mount="teams/one")) == "of another mount"
    assert vault.namespaces == {"estate"}


def test_the_token_may_be_what_vault_login_left(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VAULT_TOKEN")
    assert "no token; vault login" in refused(vault_ref())
    (tmp_path / ".vault-token").write_text(TOKEN + "\n")
    assert SecretSources(None).read(vault_ref()) == VALUE


def test_a_busy_vault_is_asked_again(vault: Vault) -> None:
    vault.busy = 2
    assert SecretSources(None).read(vault_ref()) == VALUE


def test_a_refusal_names_reference_status_and_way_out(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(vault_ref(path="gone")).startswith("vault secret/gone: status 404: no such")
    assert "#root: no such key (there are: admin, bridge)" in refused(vault_ref("root"))
    vault.secrets["secret/data/data-lake/kafka"] = {"admin": {"nested": VALUE}, "empty": ""}
    assert "dict where text is expected" in refused(vault_ref())
    assert "empty where text is expected" in refused(vault_ref("empty"))
    vault.sealed = True
    assert "status 503: Vault is sealed" in refused(vault_ref())
    vault.sealed = False
    monkeypatch.setenv("VAULT_TOKEN", "another")
    assert "status 403: the token may not" in refused(vault_ref())
    monkeypatch.delenv("VAULT_ADDR")
    assert "VAULT_ADDR is empty" in refused(vault_ref())


def test_an_engine_of_version_1_is_named_as_the_mistake(vault: Vault) -> None:
    vault.secrets["secret/data/data-lake/kafka"] = None  # type: ignore[assignment]
    assert "not the answer of a KV engine of version 2" in refused(vault_ref())


def test_the_token_does_not_go_where_vault_sends_on(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as other:
        other.secrets = dict(vault.secrets)
        vault.sends_on = other.address.replace("//", "//me:hunter2@")
        said = refused(vault_ref())
        assert f"sends on to {other.address}, where no token is sent; export" in said
        assert not other.asked


@pytest.mark.parametrize("address", ["http://me:hunter2@127.0.0.1:1", "me:hunter2@far", "hunter2"])
def test_the_password_in_an_address_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("VAULT_ADDR", address)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    said = refused(vault_ref())
    assert "does not answer" in said and "hunter2" not in said


def test_a_silent_vault_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_sources, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as never_answers:
        monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{never_answers.getsockname()[1]}")
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        sources = SecretSources(None)
        for path in ("one", "two", "three"):
            assert "does not answer (" in refused(vault_ref(path=path), sources)
        never_answers.settimeout(0.5)
        never_answers.accept()
        with pytest.raises(TimeoutError):
            never_answers.accept()


# -- AWS -----------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        client = botocore.session.Session().create_client("secretsmanager", "eu-central-1")
        client.create_secret(
            Name="estate/kafka", SecretString=json.dumps({"admin": VALUE, "port": 1})
        )
        yield client


def test_a_secret_of_aws_is_read_whole_or_by_key(aws: Any) -> None:
    aws.create_secret(Name="plain", SecretString="just text")
    sources = SecretSources(None)
    assert sources.read(aws_ref(key="admin")) == VALUE
    assert sources.read(aws_ref(secret_id="plain")) == "just text"
    arn = aws.describe_secret(SecretId="plain")["ARN"]
    assert sources.read(aws_ref(secret_id=arn)) == "just text"


def test_the_region_is_the_references_the_arns_or_the_environments(
    aws: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = aws.describe_secret(SecretId="estate/kafka")["ARN"]
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "region" in refused(aws_ref(key="admin"))
    assert SecretSources(None).read(aws_ref(key="admin", region="eu-central-1")) == VALUE
    assert SecretSources(None).read(aws_ref(key="admin", secret_id=arn)) == VALUE
    assert "ResourceNotFoundException: no such" in refused(aws_ref(region="us-east-1"))


def test_a_secret_of_aws_is_fetched_once(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    read = secret_sources._aws_document

    def counted(secret_id: str, region: str | None) -> str:
        fetched.append(secret_id)
        return read(secret_id, region)

    monkeypatch.setattr(secret_sources, "_aws_document", counted)
    sources = SecretSources(None)
    for _ in range(2):
        sources.read(aws_ref(key="admin"))
    assert "int where text is expected" in refused(aws_ref(key="port"), sources)
    assert fetched == ["estate/kafka"]


def test_what_aws_refuses_is_one_line(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "#root: no such key (there are: admin, port)" in refused(aws_ref(key="root"))
    aws.create_secret(Name="binary", SecretBinary=VALUE.encode())
    assert "aws binary: is binary" in refused(aws_ref(secret_id="binary"))
    aws.create_secret(Name="plain", SecretString=VALUE)
    assert "no JSON object" in refused(aws_ref(secret_id="plain", key="admin"))
    aws.delete_secret(SecretId="plain")
    assert "status 400, InvalidRequestException: it is marked" in refused(
        aws_ref(secret_id="plain")
    )


def test_no_credentials_say_how_to_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert "log in (aws sso login)" in refused(aws_ref(region="eu-central-1"))


def test_a_silent_aws_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    sources = SecretSources(None)
    for name in ("one", "two"):
        ref = aws_ref(secret_id=name, region="eu-central-1")
        assert "AWS does not answer (EndpointConnectionError)" in refused(ref, sources)
