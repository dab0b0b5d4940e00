"""What the sidecar's and the controller's tests have: a registry in memory and a fake Triton."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from model_repo.declared import Serving
from model_repo.oci import Registry
from model_repo.repository import Repository
from services.serving.model import Assigned, Track, Version, VersionStatus
from services.serving.settings import RegistrySettings, ServerSettings, SyncSettings
from services.serving.sync import Sync
from services.serving.triton import Triton
from tests.unit.model_repo.registry import MemoryRegistry
from tests.unit.model_repo.test_golden import values
from tests.unit.model_repo.test_repository import ABOUT, COMMIT, KEY, OTHER
from tests.unit.services.serving.triton_double import FakeTriton

SERVER = ServerSettings(port=1, certificate=Path("tls.crt"), key=Path("tls.key"))


class Site:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = MemoryRegistry()
        self.triton = FakeTriton(root / "repository")
        self.syncs: list[Sync] = []
        for name, text in (("username", "reader\n"), ("password", "secret\n")):
            (root / name).write_text(text)
        self.trust(KEY)
        self._folders = 0

    def trust(self, *keys: ec.EllipticCurvePrivateKey) -> None:
        pem = b"".join(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            for key in keys
        )
        (self.root / "signing.pub").write_bytes(pem)

    def close(self) -> None:
        self.registry.close()
        self.triton.close()

    @property
    def access(self) -> RegistrySettings:
        """By plain HTTP on the loopback, which settings of a cluster do not take."""
        return RegistrySettings.model_construct(
            url=f"{self.registry.url}/estate",
            ca=self.root / "ca.crt",
            username=self.root / "username",
            password=self.root / "password",
            trust=self.root / "signing.pub",
        )

    def settings(self, track: Track = "stable", **changes: Any) -> SyncSettings:
        return SyncSettings(
            namespace="serving",
            track=track,
            pool="cpu",
            registry=self.access,
            repository=self.root / "repository",
            versions=self.root / "versions",
            triton=self.triton.url,
            server=SERVER,
            **changes,
        )

    def sync(self, track: Track = "stable") -> Sync:
        """A sidecar that has just begun."""
        return Sync(self.settings(track), Triton(self.triton.url))

    def add(
        self,
        number: int,
        content: bytes | None = None,
        *,
        golden: bool = True,
        key: ec.EllipticCurvePrivateKey = KEY,
        **about: Any,
    ) -> Version:
        """A signed version in the registry; one under the same number becomes unknown by it."""
        self._folders += 1
        folder = self.root / f"added-{self._folders}"
        folder.mkdir()
        told = {**ABOUT, **about}
        (folder / "version.yaml").write_text(yaml.safe_dump(told))
        (folder / "model.onnx").write_bytes(content or b"graph %d" % number)
        if golden:
            (folder / "golden.json").write_text(json.dumps(values()))
        self.registry.manifests.pop((f"estate/models/{told['name']}", str(number)), None)
        repository = Repository(Registry(f"{self.registry.url}/estate"), [KEY.public_key()])
        stored, _ = repository.add(folder, number, COMMIT, key)
        shutil.rmtree(folder)
        return Version(version=number, digest=stored.digest)

    def unsigned(self, number: int) -> Version:
        """By somebody whose key is not trusted."""
        return self.add(number, key=OTHER)


def assigned(*versions: Version, name: str = "digits", **serving: Any) -> dict[str, Assigned]:
    return {name: Assigned(name=name, versions=versions, serving=Serving(**serving))}


def until(sync: Sync, true: Callable[[], object], most_s: float = 10.0) -> None:
    """Rounds until something is so."""
    deadline = time.monotonic() + most_s
    while True:
        sync.round()
        if true():
            return
        assert time.monotonic() < deadline, sync.status()
        time.sleep(0.01)


def rest(sync: Sync) -> None:
    """One round, and what it began is done."""
    sync.round()
    deadline = time.monotonic() + 10
    while any(model.busy for model in sync._models.values()):
        assert time.monotonic() < deadline, sync.status()
        time.sleep(0.005)
    sync._look()


def state(sync: Sync, one: Version, name: str = "digits") -> VersionStatus | None:
    return sync.status().models.get(name, {}).get(one.version)


def is_(sync: Sync, one: Version, wanted: str, name: str = "digits") -> Callable[[], bool]:
    def true() -> bool:
        found = state(sync, one, name)
        return found is not None and (found.digest, found.state) == (one.digest, wanted)

    return true
