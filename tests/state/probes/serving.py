"""Probes of serving: by KServe's v2 protocol through the gateway, and what rollouts say."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import grpc
import numpy
import requests
import tritonclient.grpc as client
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import triton_to_np_dtype

from components.model_repository.config import TRUST, TRUST_KEY
from components.triton.config import NAMESPACE
from model_repo import golden, signing
from model_repo.oci import Registry
from model_repo.repository import Repository
from services.serving.model import STATE, Progress
from tests.state.probes import Final, ProbeContext, probe

Secret = Mapping[str, str]
_TIMEOUT_S = 20
_BATCH = 8
"""Examples of a golden set in one request: what each of the models takes."""
_WHY = 110
"""Characters of a refusal's reason: the way out has to fit into a row too."""


class _Door:
    """HTTPS to the gateway, whose certificate is verified by the estate's authority."""

    def __init__(self, ctx: ProbeContext, host: str, port: int, ca: Secret) -> None:
        self._url = f"https://{host}:{port}"
        self._session = requests.Session()
        file = ctx.tmp / "ca.crt"
        file.write_bytes(ctx.secret(ca))
        self._session.verify = str(file)
        # Or REQUESTS_CA_BUNDLE would count instead.
        self._session.trust_env = False

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        return self._session.request(method, self._url + path, json=body, timeout=_TIMEOUT_S)


@probe("serving_answers")
def answers(
    ctx: ProbeContext,
    host: str,
    port: int,
    ca: Secret,
    models: Mapping[str, int],
    registry: str,
    registry_ca: Secret | None,
    user: Mapping[str, Secret],
) -> str:
    """Every model answers its golden set, in its declared version, within the set's tolerance."""
    door = _Door(ctx, host, port, ca)
    repository = _repository(ctx, registry, user, registry_ca)
    state = ctx.config_map(NAMESPACE, STATE)
    _not_refused(state, models)
    for model, version in models.items():
        assert model in state, f"{model}: unknown to the controller"
        served = Progress.model_validate_json(state[model]).stable
        assert served is not None, f"{model}: no version is served"
        stored = repository.show(model, served.digest)
        for part in repository.golden(stored).batches(_BATCH):
            answer = door.ask("POST", f"/v2/models/{model}/infer", part.request())
            assert answer.ok, f"{model}: {answer.status_code} {answer.text[:200]}"
            found = answer.json()
            assert found["model_version"] == str(version), (
                f"{model}: version {found['model_version']} answers, {version} is declared"
            )
            different = golden.compare(part, found["outputs"])
            assert not different, f"{model}: {'; '.join(different)}"
    return ", ".join(f"{model} {version}" for model, version in models.items())


def _not_refused(state: Mapping[str, str], models: Mapping[str, int]) -> None:
    """Raises Final when a version that is declared was refused and is not tried again."""
    for model, version in models.items():
        if model not in state:
            continue
        refused = Progress.model_validate_json(state[model]).refused
        # The record of one that is not declared any more goes at the controller's next look.
        if refused is None or refused.again or refused.version != version:
            continue
        why = refused.why if len(refused.why) <= _WHY else refused.why[: _WHY - 3] + "..."
        raise Final(
            f"{model}: version {version} is refused for good, gate {refused.gate}: {why}; "
            "declare another (./estate model promote or rollback), then ./estate up"
        )


def _repository(
    ctx: ProbeContext, url: str, user: Mapping[str, Secret], ca: Secret | None
) -> Repository:
    """The model registry as its reader, with the keys that the estate trusts."""
    authority, keys = None, ctx.tmp / "signing.pub"
    if ca is not None:
        authority = ctx.tmp / "registry-ca.crt"
        authority.write_bytes(ctx.secret(ca))
    keys.write_text(ctx.config_map(NAMESPACE, TRUST)[TRUST_KEY])
    name, password = (ctx.secret(user[part]).decode() for part in ("username", "password"))
    return Repository(Registry(url, (name, password), ca=authority), signing.trusted([keys]))


@probe("serving_grpc")
def by_grpc(ctx: ProbeContext, host: str, port: int, ca: Secret, models: Mapping[str, int]) -> str:
    """The same by gRPC, with NVIDIA's client."""
    _not_refused(ctx.config_map(NAMESPACE, STATE), models)
    said = []
    file = ctx.tmp / "ca.crt"
    file.write_bytes(ctx.secret(ca))
    with client.InferenceServerClient(
        f"{host}:{port}", ssl=True, root_certificates=str(file)
    ) as server:
        for model, version in models.items():
            inputs = []
            for one in server.get_model_metadata(model, client_timeout=_TIMEOUT_S).inputs:
                shape = [max(1, size) for size in one.shape]
                zeros = numpy.zeros(shape, triton_to_np_dtype(one.datatype))
                tensor = client.InferInput(one.name, shape, one.datatype)
                tensor.set_data_from_numpy(zeros)
                inputs.append(tensor)
            answer = server.infer(model, inputs, client_timeout=_TIMEOUT_S).get_response()
            assert answer.model_version == str(version), (
                f"{model}: version {answer.model_version} answers, {version} is declared"
            )
            said.append(f"{model} {answer.model_version}")
    return ", ".join(said)


@probe("serving_control")
def control(ctx: ProbeContext, host: str, port: int, ca: Secret) -> str:
    """Model control, shared memory and settings are refused, by both protocols."""
    paths = (
        "/v2/repository/index",
        "/v2/repository/models/any/unload",
        "/v2/systemsharedmemory/region/any/register",
        "/v2/logging",
        "/v2/models/any/trace/setting",
        "/metrics",
    )
    door = _Door(ctx, host, port, ca)
    for path in paths:
        status = door.ask("POST", path, {}).status_code
        assert status == 403, f"POST {path}: {status}, not 403"
    credentials = grpc.ssl_channel_credentials(ctx.secret(ca))
    with grpc.secure_channel(f"{host}:{port}", credentials) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            code = error.code()
            assert code == grpc.StatusCode.PERMISSION_DENIED, f"RepositoryIndex: {code}"
        else:
            raise AssertionError("RepositoryIndex by gRPC is answered")
    return f"{len(paths)} paths and RepositoryIndex are refused"


@probe("serving_runtime")
def runtime(ctx: ProbeContext, host: str, port: int, ca: Secret) -> str:
    """Without the controller's certificate the runtime API says nothing, on any of the pods."""
    context = ssl.create_default_context(cadata=ctx.secret(ca).decode())
    pods = [
        pod["status"]["podIP"]
        for pod in ctx.pods(NAMESPACE, "app.kubernetes.io/name=inference")
        if pod["status"].get("podIP")
    ]
    assert pods, "the gateway has no pod"
    for address in pods:
        try:
            with (
                socket.create_connection((address, port), 5) as plain,
                context.wrap_socket(plain, server_hostname=host) as tls,
            ):
                tls.sendall(b"show info\n")
                said = tls.recv(4096)
        except OSError:
            continue
        assert not said, f"{address} answers without a certificate: {said[:60]!r}"
    return f"{len(pods)} pods refuse"


@probe("serving_rollouts")
def rollouts(ctx: ProbeContext, models: Mapping[str, int]) -> str:
    """The controller's own record: idle, the declared version served, none refused."""
    found = ctx.config_map(NAMESPACE, STATE)
    _not_refused(found, models)
    for model, version in models.items():
        text = found.get(model)
        assert text, f"{model}: unknown to the controller"
        at = Progress.model_validate(json.loads(text))
        assert at.refused is None, f"{model}: {at.refused.gate}: {at.refused.why}"
        assert at.stable is not None, f"{model}: {at.phase}"
        assert at.stable.version == version, f"{model} serves {at.stable.version}, not {version}"
        assert at.phase == "idle", f"{model}: {at.phase}, the canary gets {at.weight} %"
    return f"{len(models)} models"
