"""What must be true of running models, and how each statement is broken to prove it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from components.checks import Check, Fault, SecretKeyRef, settings_fault
from components.model_repository.repository import ModelRepository
from components.triton.config import GATEWAY, HOST, HTTP_PORT, NAMESPACE, PORT, RUNTIME_PORT
from components.triton.models import config_map
from model_repo.declared import Desired
from services.serving.model import DECLARED_KEY


def serving_checks(
    *,
    models: Sequence[Desired],
    registry: ModelRepository,
    gateway: str,
    open_gateway: str,
    deaf_gateway: str,
) -> list[Check]:
    """The checks of one gateway; the last two are configurations of it that break one rule each:
    model control passes, and anybody may use the runtime API.
    """
    numbers = {one.name: one.version for one in models}
    ca = SecretKeyRef(namespace=NAMESPACE, secret=f"{GATEWAY}-tls", key="ca.crt").arg()
    door: dict[str, JsonValue] = {"host": HOST, "port": PORT, "ca": ca}
    names: dict[str, JsonValue] = {"models": dict[str, JsonValue](numbers)}
    # To ports where nobody listens.
    astray = gateway.replace(f":{HTTP_PORT} check", ":9 check")
    found = [
        Check(
            id="serving.control",
            title="the gateway lets nobody load or unload a model",
            probe="serving_control",
            args=door,
            fault=_fault(open_gateway),
        ),
        Check(
            id="serving.runtime",
            title="the gateway's runtime API takes the controller alone",
            probe="serving_runtime",
            args={**door, "port": RUNTIME_PORT},
            fault=_fault(deaf_gateway),
        ),
    ]
    if not models:
        return found
    source: dict[str, JsonValue] = {
        "registry": registry.read_address,
        "registry_ca": ca if registry.authority is not None else None,
        "user": {
            key: SecretKeyRef(namespace=NAMESPACE, secret=registry.reader_secret, key=key).arg()
            for key in ("username", "password")
        },
    }
    first = min(models, key=lambda one: one.name)
    # Whole, or the controller would not take it for a declaration.
    nowhere = first.model_copy(update={"digest": f"sha256:{'0' * 64}"})
    return [
        *found,
        Check(
            id="serving.answers",
            title=f"each of {len(models)} models answers its golden set, in its declared version",
            probe="serving_answers",
            args={**door, **names, **source},
            fault=_fault(astray),
        ),
        Check(
            id="serving.grpc",
            title="a model answers by gRPC in its declared version",
            probe="serving_grpc",
            args={**door, "models": {first.name: first.version}},
            fault=_fault(gateway.replace("protobuf(1)", "protobuf(9)").replace("proto h2 ", "")),
        ),
        Check(
            id="serving.rollouts",
            title="every rollout has ended, and no declared version was refused",
            probe="serving_rollouts",
            args=names,
            fault=settings_fault(
                NAMESPACE, config_map(first.name), {DECLARED_KEY: nowhere.document()}
            ),
        ),
    ]


def _fault(haproxy_cfg: str) -> Fault:
    data = {"haproxy.cfg": haproxy_cfg}
    return settings_fault(NAMESPACE, f"{GATEWAY}-config", data, restart=GATEWAY)
