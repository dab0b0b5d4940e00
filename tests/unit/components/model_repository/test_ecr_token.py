"""What renews ECR's token: moto and a double for AWS, a double by TLS for Kubernetes."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from moto import mock_aws

from components.model_repository import ecr_token
from tests.unit.rehearsal.authority import authority

REGION = "eu-central-1"
PATH = "/api/v1/namespaces/serving/secrets/model-registry-reader"
FORMER = {"username": "QVdT", "password": "Zm9ybWVy"}
ACCOUNT = "token-of-the-service-account"
PASSWORD = "password-from-ecr"


class Double:
    """One port that answers what it is told; keeps what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                double.asked.append((self.command, self.path, dict(self.headers), body))
                status, content = double.answer(body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

            def log_message(self, *_: object) -> None:
                """Not on the tests' screen."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://localhost:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, body: bytes) -> tuple[int, bytes]:
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Kubernetes(Double):
    """One Secret, which takes a JSON merge patch (RFC 7386) of whoever has the account's token."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(tls)
        self.data: dict[str, str] = dict(FORMER)
        self.status = 200

    def answer(self, body: bytes) -> tuple[int, bytes]:
        method, path, headers, _ = self.asked[-1]
        if headers["Authorization"] != f"Bearer {ACCOUNT}":
            return 401, b"{}"
        if self.status != 200:
            return self.status, b'{"kind": "Status"}'
        assert (method, urlsplit(path).path) == ("PATCH", PATH)
        assert headers["Content-Type"] == "application/merge-patch+json"
        for key, value in json.loads(body)["data"].items():
            self.data[key] = base64.b64encode(base64.b64decode(value, validate=True)).decode()
        return 200, b"{}"


class Aws(Double):
    """ECR and STS: the next answers, by the operation's name."""

    def __init__(self) -> None:
        super().__init__()
        self.says: dict[str, tuple[int, bytes]] = {}

    def answer(self, body: bytes) -> tuple[int, bytes]:
        headers = self.asked[-1][2]
        target = headers.get("X-Amz-Target", "").rpartition(".")[2]
        return self.says[target or parse_qs(body.decode())["Action"][0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority(tmp_path, host="localhost")
    (tmp_path / "token").write_text(ACCOUNT)
    return tmp_path


@pytest.fixture
def kubernetes(folder: Path) -> Iterator[Kubernetes]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "ca.crt", folder / "ca.key")
    made = Kubernetes(tls)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIA-of-the-test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "no_proxy": "*",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    made = Aws()
    for service in ("ECR", "STS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", made.url)
    yield made
    made.close()


def given(password: str = PASSWORD) -> tuple[int, bytes]:
    token = base64.b64encode(f"AWS:{password}".encode()).decode()
    data = {"authorizationToken": token, "expiresAt": 1_796_000_000, "proxyEndpoint": "https://x"}
    return 200, json.dumps({"authorizationData": [data]}).encode()


def run(kubernetes: Kubernetes, folder: Path) -> int:
    return ecr_token.main([REGION, kubernetes.url + PATH, str(folder)])


def test_a_token_of_moto_s_becomes_the_secret(
    kubernetes: Kubernetes, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock_aws():
        assert run(kubernetes, folder) == 0
    assert base64.b64decode(kubernetes.data["username"]) == b"AWS"
    password = base64.b64decode(kubernetes.data["password"]).decode()
    assert password.endswith("auth-token")
    said = capsys.readouterr()
    assert said.out.startswith("model-registry-reader: good until ") and not said.err
    assert password not in said.out


def test_both_keys_change_in_one_patch_of_a_named_manager(
    kubernetes: Kubernetes, folder: Path, aws: Aws
) -> None:
    aws.says["GetAuthorizationToken"] = given()
    assert run(kubernetes, folder) == 0
    ((_, path, _, body),) = kubernetes.asked
    assert parse_qs(urlsplit(path).query) == {"fieldManager": ["model-registry-token"]}
    assert json.loads(body) == {
        "data": {
            "username": base64.b64encode(b"AWS").decode(),
            "password": base64.b64encode(PASSWORD.encode()).decode(),
        }
    }


def refused(kubernetes: Kubernetes, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that it ends with; the former Secret is still there."""
    assert run(kubernetes, folder) == 1
    said = capsys.readouterr()
    assert kubernetes.data == FORMER and not said.out
    (line,) = said.err.splitlines()
    for word in (PASSWORD, ACCOUNT, "secret-of-the-test"):
        assert word not in line
    return line


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDeniedException", "allow it ecr:GetAuthorizationToken on *"),
        ("ExpiredTokenException", "the credentials have expired"),
        ("UnrecognizedClientException", "AWS does not know these credentials"),
        ("SomethingNew", "see AWS's documentation of this error"),
    ],
)
def test_what_aws_refuses_is_one_line(
    kubernetes: Kubernetes,
    folder: Path,
    aws: Aws,
    capsys: pytest.CaptureFixture[str],
    code: str,
    words: str,
) -> None:
    aws.says["GetAuthorizationToken"] = 400, json.dumps({"__type": code, "message": "no"}).encode()
    line = refused(kubernetes, folder, capsys)
    assert line.startswith(f"ecr: GetAuthorizationToken: {code}: ") and words in line
    assert not kubernetes.asked


STS = """\
<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>\
<Code>{code}</Code><Message>no</Message></Error></ErrorResponse>"""
ASSUMED = """\
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">\
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIA</AccessKeyId>\
<SecretAccessKey>temporary</SecretAccessKey><SessionToken>session-of-the-role</SessionToken>\
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser>\
<AssumedRoleId>A:b</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/r/b</Arn>\
</AssumedRoleUser></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What EKS gives to a pod whose service account has a role."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "identity").write_text("identity-of-the-pod")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "identity"))


@pytest.mark.usefixtures("role")
def test_it_asks_as_the_role_of_its_service_account(
    kubernetes: Kubernetes, folder: Path, aws: Aws
) -> None:
    aws.says["AssumeRoleWithWebIdentity"] = 200, ASSUMED.encode()
    aws.says["GetAuthorizationToken"] = given()
    assert run(kubernetes, folder) == 0
    assumed, asked = aws.asked
    assert parse_qs(assumed[3].decode())["WebIdentityToken"] == ["identity-of-the-pod"]
    assert asked[2]["X-Amz-Security-Token"] == "session-of-the-role"


@pytest.mark.usefixtures("role")
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessDenied", "its trust policy has to name this service account"),
        ("InvalidIdentityToken", "IAM knows no provider"),
        ("ExpiredTokenException", "the credentials have expired"),
    ],
)
def test_a_role_that_is_not_given_is_one_line(
    kubernetes: Kubernetes,
    folder: Path,
    aws: Aws,
    capsys: pytest.CaptureFixture[str],
    code: str,
    words: str,
) -> None:
    aws.says["AssumeRoleWithWebIdentity"] = 403, STS.format(code=code).encode()
    line = refused(kubernetes, folder, capsys)
    assert line.startswith(f"ecr: AssumeRoleWithWebIdentity: {code}: ") and words in line


def test_without_any_credentials_it_says_where_they_come_from(
    kubernetes: Kubernetes,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    line = refused(kubernetes, folder, capsys)
    assert "Unable to locate credentials" in line and "eks.amazonaws.com/role-arn" in line


def test_an_aws_that_does_not_answer_is_one_line(
    kubernetes: Kubernetes,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in refused(kubernetes, folder, capsys)


@pytest.mark.parametrize("token", ["", "not base64!", base64.b64encode(PASSWORD.encode()).decode()])
def test_an_answer_without_user_and_password_is_not_stored(
    kubernetes: Kubernetes,
    folder: Path,
    aws: Aws,
    capsys: pytest.CaptureFixture[str],
    token: str,
) -> None:
    data = [{"authorizationToken": token, "expiresAt": 1_796_000_000}]
    aws.says["GetAuthorizationToken"] = 200, json.dumps({"authorizationData": data}).encode()
    assert "no user and password" in refused(kubernetes, folder, capsys)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "status 403: the service account may not patch this Secret"),
        (404, "status 404: there is no such Secret"),
        (500, "status 500: see the API server's log"),
        (307, "status 307: see the API server's log"),
    ],
)
def test_what_kubernetes_refuses_is_one_line(
    kubernetes: Kubernetes,
    folder: Path,
    aws: Aws,
    capsys: pytest.CaptureFixture[str],
    status: int,
    words: str,
) -> None:
    aws.says["GetAuthorizationToken"] = given()
    kubernetes.status = status
    assert words in refused(kubernetes, folder, capsys)


def test_another_api_than_the_cluster_s_is_told_nothing(
    kubernetes: Kubernetes,
    folder: Path,
    aws: Aws,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    aws.says["GetAuthorizationToken"] = given()
    other = tmp_path_factory.mktemp("other")
    authority(other, host="localhost")
    (folder / "ca.crt").write_bytes((other / "ca.crt").read_bytes())
    assert "CERTIFICATE_VERIFY_FAILED" in refused(kubernetes, folder, capsys)
    assert not kubernetes.asked
