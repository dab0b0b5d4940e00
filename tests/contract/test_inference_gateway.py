"""The gateway's real configuration in the real HAProxy, before servers that say who they are.

On the loopback, with a certificate authority of its own: names and ports of the cluster are
replaced, all else is what a pod gets.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy
import pytest
import requests
import tritonclient.grpc as client
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tritonclient.grpc import service_pb2, service_pb2_grpc

from components.triton import gateway_files
from components.triton.config import (
    CLIENTS_PORT,
    CONTROLLER,
    GATEWAY_METRICS_PORT,
    GRPC_PORT,
    RUNTIME_PORT,
    TritonConfig,
)
from services.serving.gateway import Gateway, GatewayError, Trust
from services.serving.model import Seen
from tests.loopback import free_port, haproxy

CONFIG = TritonConfig.model_validate({"pools": [{"name": "cpu"}, {"name": "gpu"}]})


HAPROXY = haproxy()
pytestmark = pytest.mark.skipif(
    HAPROXY is None, reason="needs haproxy: ./estate up unpacks it into the cache"
)


class Fake:
    """A server of one track that answers with its name, or fails when it is told to."""

    def __init__(self, name: str) -> None:
        self.name, self.fails, self.asked = name, False, Counter[str]()
        self.takes_s = 0.0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(200, {"name": fake.name})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake.asked[self.path] += 1
                time.sleep(fake.takes_s)
                self._answer(500 if fake.fails else 200, {"model_version": fake.name})

            def _answer(self, status: int, body: object) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
            def ModelInfer(self, request: object, context: object) -> object:
                return service_pb2.ModelInferResponse(
                    model_name=request.model_name,  # type: ignore[attr-defined]
                    model_version=fake.name,
                )

            def RepositoryIndex(self, request: object, context: object) -> object:
                return service_pb2.RepositoryIndexResponse()

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """HAProxy's checks end connections as soon as they have seen the status."""

        self._http = Server(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.http = self._http.server_address[1]
        self._grpc = grpc.server(
            futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)]
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), self._grpc)
        self.grpc = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(None)


class Certificates:
    """An authority and what it issued, as files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        made = self._build(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.ca = self._write("ca.crt", made.sign(self._key, hashes.SHA256()))

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            self._build(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                False,
            )
        )
        certificate = self._write(f"{name}.crt", made.sign(self._key, hashes.SHA256()))
        file = certificate.with_suffix(".key")
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, file

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    def _write(self, name: str, certificate: x509.Certificate) -> Path:
        file = self._folder / name
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return file


@dataclass
class Running:
    url: str
    runtime: Gateway
    certificates: Certificates
    servers: dict[str, Fake]
    port: int
    runtime_port: int

    def infer(self, model: str = "digits", path: str = "") -> requests.Response:
        return requests.post(
            f"{self.url}/v2/models/{model}{path}/infer",
            json={"inputs": []},
            verify=str(self.certificates.ca),
            timeout=5,
        )

    def ask(self, method: str, path: str) -> requests.Response:
        return requests.request(
            method, self.url + path, verify=str(self.certificates.ca), timeout=5
        )

    def channel(self) -> client.InferenceServerClient:
        return client.InferenceServerClient(
            f"localhost:{self.port}", ssl=True, root_certificates=str(self.certificates.ca)
        )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    certificates = Certificates(tmp_path)
    tls = tmp_path / "tls"
    tls.mkdir()
    for file, name in zip(certificates.issue("inference"), ("tls.crt", "tls.key"), strict=True):
        shutil.copy(file, tls / name)
    servers = {
        f"{pool}-{track}": Fake(f"{pool}-{track}")
        for pool in ("cpu", "gpu")
        for track in ("stable", "canary")
    }
    run = tmp_path / "run"
    run.mkdir()
    for name in ("weights.map", "pools.map"):
        (run / name).touch()
    ports = {port: free_port() for port in (CLIENTS_PORT, RUNTIME_PORT, GATEWAY_METRICS_PORT)}
    text = gateway_files.haproxy_cfg(CONFIG, "serving.svc.cluster.local")
    for port, own in ports.items():
        text = text.replace(f"bind :{port} ", f"bind 127.0.0.1:{own} ")

    def server(match: re.Match[str]) -> str:
        fake = servers[f"{match['pool']}-{match['track']}"]
        port = fake.grpc if match["port"] == str(GRPC_PORT) else fake.http
        # Checks so often that a wrong one is down before a test has begun.
        rest = match["rest"].replace("resolvers cluster init-addr none", "")
        rest = rest.replace("inter 500ms", "inter 20ms")
        return f"  server {match['track']} 127.0.0.1:{port}{rest}"

    text = text.replace("timeout check 3s", "timeout check 100ms")
    text = re.sub(
        r"  server-template (?P<track>\w+) \d+ triton-(?P<pool>\w+)-\w+\.[\w.]+:(?P<port>\d+)"
        r"(?P<rest>.*)",
        server,
        text,
    )
    for place, own_folder in (
        (gateway_files.RUN, run),
        (gateway_files.TLS, tls),
        (gateway_files.TRUST, tmp_path),
    ):
        text = text.replace(place, str(own_folder))
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(text)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [str(HAPROXY), "-db", "-f", str(configuration)], stdout=log, stderr=log
        )
    trust = Trust(certificates.ca, *certificates.issue(CONTROLLER))
    trust.refresh()
    made = Running(
        f"https://localhost:{ports[CLIENTS_PORT]}",
        Gateway("127.0.0.1", ports[RUNTIME_PORT], "localhost", trust, folder=str(run)),
        certificates,
        servers,
        ports[CLIENTS_PORT],
        ports[RUNTIME_PORT],
    )
    try:
        _until_it_answers(made, tmp_path / "log", process)
        yield made
    finally:
        process.kill()
        process.wait()
        for one in servers.values():
            one.stop()


def _until_it_answers(made: Running, log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if made.ask("GET", "/v2/health/live").ok:
                time.sleep(0.5)  # three checks, each with its time-out
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_without_the_controller_everything_goes_to_what_is_served(running: Running) -> None:
    answers = {running.infer().json()["model_version"] for _ in range(10)}
    assert answers == {"cpu-stable"}
    assert running.infer().headers["x-estate-track"] == "stable"


def test_a_weight_is_the_share_of_the_canary_of_that_model_alone(running: Running) -> None:
    running.runtime.share({"digits": 30, "embedder": 0}, {"digits": "cpu", "embedder": "cpu"})
    found = Counter(running.infer().headers["x-estate-track"] for _ in range(200))
    assert 30 <= found["canary"] <= 95
    assert {running.infer("embedder").headers["x-estate-track"] for _ in range(20)} == {"stable"}
    running.runtime.share({"digits": 100}, {"digits": "cpu"})
    assert {running.infer().headers["x-estate-track"] for _ in range(20)} == {"canary"}
    running.runtime.share({"digits": 0}, {"digits": "cpu"})
    assert {running.infer().headers["x-estate-track"] for _ in range(20)} == {"stable"}


def test_who_names_a_version_asks_for_what_is_served(running: Running) -> None:
    running.runtime.share({"digits": 100}, {"digits": "cpu"})
    assert running.infer(path="/versions/2").headers["x-estate-track"] == "stable"


def test_a_model_is_found_in_its_pool(running: Running) -> None:
    running.runtime.share({"large": 0}, {"large": "gpu"})
    assert running.infer("large").json()["model_version"] == "gpu-stable"
    running.runtime.share({"large": 100}, {"large": "gpu"})
    assert running.infer("large").json()["model_version"] == "gpu-canary"


def test_requests_and_failures_are_counted_by_model_and_track(running: Running) -> None:
    running.runtime.share({"digits": 100}, {"digits": "cpu"})
    for _ in range(5):
        running.infer()
    running.servers["cpu-canary"].fails = True
    for _ in range(3):
        assert running.infer().status_code == 500
    running.infer("nobody-declared-this")
    assert running.runtime.state().seen == {"digits/canary": Seen(requests=8, failures=3)}


def test_of_a_model_that_is_rolled_out_the_gateway_tells_what_requests_took(
    running: Running,
) -> None:
    running.runtime.share({"digits": 0}, {"digits": "cpu"})
    running.infer()
    assert running.runtime.times() == []
    running.runtime.share({"digits": 100}, {"digits": "cpu"})
    began = time.time()
    running.servers["cpu-canary"].takes_s = 0.2
    for _ in range(3):
        running.infer()
    running.ask("GET", "/v2/models/digits")
    found = running.runtime.times()
    assert [one.key for one in found] == ["digits/canary"] * 3
    assert all(began < one.at < time.time() and 150 < one.took_ms < 1000 for one in found)


def test_grpc_is_split_by_the_model_in_its_message(running: Running) -> None:
    running.runtime.share({"digits": 100, "large": 0}, {"digits": "cpu", "large": "gpu"})
    tensor = client.InferInput("image", [1, 4], "FP32")
    tensor.set_data_from_numpy(numpy.zeros((1, 4), numpy.float32))
    with running.channel() as channel:
        for model, wanted in (("digits", "cpu-canary"), ("large", "gpu-stable")):
            answer = channel.infer(model, [tensor], client_timeout=5)
            assert answer.get_response().model_version == wanted
        big = client.InferInput("image", [1, 1 << 20], "FP32")
        big.set_data_from_numpy(numpy.zeros((1, 1 << 20), numpy.float32))
        answer = channel.infer("digits", [big], client_timeout=10)
        assert answer.get_response().model_version == "cpu-canary"
        many = [channel.infer("digits", [tensor], client_timeout=5) for _ in range(50)]
        assert {one.get_response().model_version for one in many} == {"cpu-canary"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/digits/unload"),
        ("POST", "/v2/repository/models/digits/infer"),
        ("POST", "/v2/models/digits/infer/../../../repository/index"),
        ("POST", "/v2/models/digits%2F..%2F..%2Frepository/infer"),
        ("POST", "/v2/systemsharedmemory/region/x/register"),
        ("POST", "/v2/cudasharedmemory/unregister"),
        ("POST", "/v2/logging"),
        ("POST", "/v2/models/digits/trace/setting"),
        ("GET", "/v2/models/digits/generate"),
        ("GET", "/metrics"),
        ("GET", "/"),
    ],
)
def test_what_is_no_inference_is_refused(running: Running, method: str, path: str) -> None:
    prepared = requests.Request(method, "https://localhost/").prepare()
    prepared.url = running.url + path  # as it is, not made shorter by the client
    with requests.Session() as session:
        answer = session.send(prepared, verify=str(running.certificates.ca), timeout=5)
    assert answer.status_code == 403
    asked = Counter[str]()
    for server in running.servers.values():
        asked += server.asked
    assert not asked


def test_model_control_by_grpc_is_refused(running: Running) -> None:
    credentials = grpc.ssl_channel_credentials(running.certificates.ca.read_bytes())
    with grpc.secure_channel(f"localhost:{running.port}", credentials) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_the_controller_resumes_its_session(running: Running) -> None:
    """A whole handshake in each round would hold up requests."""
    reused = []
    ask = ssl.SSLSocket.do_handshake

    def handshake(self: ssl.SSLSocket, *arguments: bool) -> None:
        ask(self, *arguments)
        reused.append(self.session_reused)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl.SSLSocket, "do_handshake", handshake)
        running.runtime.state()
        running.runtime.share({"digits": 100}, {"digits": "cpu"})
    assert len(reused) == 4 and all(reused[1:])
    assert running.infer().headers["x-estate-track"] == "canary"


@pytest.mark.parametrize("name", [None, "somebody"])
def test_the_runtime_api_takes_the_controller_alone(running: Running, name: str | None) -> None:
    context = ssl.create_default_context(cafile=str(running.certificates.ca))
    if name:
        context.load_cert_chain(*running.certificates.issue(name))
    trust = Trust(running.certificates.ca, running.certificates.ca, running.certificates.ca)
    trust._context = context  # which the controller's own never is
    other = Gateway(
        "127.0.0.1", running.runtime_port, "localhost", trust, folder=running.runtime.folder
    )
    with pytest.raises(GatewayError):
        other.state()
    with pytest.raises(GatewayError):
        other.share({"digits": 100}, {"digits": "cpu"})
    assert running.infer().headers["x-estate-track"] == "stable"


def test_without_a_canary_its_requests_go_to_what_is_served(running: Running) -> None:
    running.runtime.share({"digits": 100, "large": 100}, {"digits": "cpu", "large": "gpu"})
    assert running.infer().headers["x-estate-track"] == "canary"
    running.servers["cpu-canary"].stop()
    deadline = time.monotonic() + 15
    while running.infer().headers.get("x-estate-track") != "stable":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for _ in range(20):
        answer = running.infer()
        assert answer.ok and answer.headers["x-estate-track"] == "stable"
    # Nobody takes them for the canary's, and another pool has its own.
    before = running.runtime.state().seen["digits/canary"]
    running.infer()
    assert running.runtime.state().seen["digits/canary"] == before
    assert running.infer("large").headers["x-estate-track"] == "canary"


def test_a_server_that_dies_costs_nothing_that_was_not_on_its_way(running: Running) -> None:
    running.runtime.share({"digits": 0}, {"digits": "cpu"})
    assert running.infer().ok
    running.servers["cpu-stable"].stop()
    assert running.infer().status_code in (502, 503)
