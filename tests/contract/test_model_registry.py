"""`./estate model` with the CNCF's own registry, on loopback with users, as a user runs it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from components.model_repository import distribution_files as files
from components.model_repository.config import PUBLISHER, READER
from model_repo.oci import NotThere, OciError, Registry, described, image_manifest
from model_repo.repository import Repository
from rehearsal import paths, tools
from tests.loopback import free_port
from tests.unit.model_repo.site import MODEL
from tests.unit.model_repo.site import Site as Clone
from tests.unit.model_repo.test_repository import ABOUT, COMMIT, KEY, OTHER, pem

USER, PASSWORD, WRONG = "estate", "only for this test", "mistaken-pass"
_HASH = "$2b$05$j4pTyo17snBq1HNS8MeyG.xChSYxgh0QdyqJ0MBmdi8bOLm.jSvMi"
"""bcrypt of PASSWORD: the registry reads no other kind."""


@dataclass
class Site:
    """A registry and a user's files."""

    url: str
    folder: Path

    def estate(self, *arguments: str, login: str = "docker") -> subprocess.CompletedProcess[str]:
        docker = self.folder / login
        return subprocess.run(
            [sys.executable, "-P", "-m", "rehearsal.cli", "model", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(paths.root()),
                "ESTATE_MODEL_REGISTRY": f"{self.url}/estate",
                "DOCKER_CONFIG": str(docker),
                "REGISTRY_AUTH_FILE": "",
                "XDG_RUNTIME_DIR": "",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def add(
        self, number: int, *more: str, login: str = "docker"
    ) -> subprocess.CompletedProcess[str]:
        return self.estate(
            *("add", str(self.folder / "version"), "--version", str(number)),
            *("--key", str(self.folder / "signing.pem"), "--revision", COMMIT, *more),
            login=login,
        )

    def read(self, what: str, *more: str) -> subprocess.CompletedProcess[str]:
        return self.estate(what, "digits", *more, "--trust", str(self.folder / "signing.pub"))


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    binary = tools.find(tools.catalogue()["registry"])
    if binary is None:
        pytest.skip("registry is not built: ./estate tools build registry")
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    (folder / "users").write_text(f"{USER}:{_HASH}\n")
    settings = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}"},
        "auth": {"htpasswd": {"realm": "estate", "path": str(folder / "users")}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    for login, password in (("docker", PASSWORD), ("mistaken", WRONG)):
        (folder / login).mkdir()
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        auths = {"auths": {f"127.0.0.1:{port}": {"auth": auth}}}
        (folder / login / "config.json").write_text(json.dumps(auths))
    (folder / "version").mkdir()
    (folder / "version" / "version.yaml").write_text(yaml.safe_dump(ABOUT))
    (folder / "version" / "model.onnx").write_bytes(os.urandom(3_000_000))
    (folder / "signing.pem").write_bytes(pem(KEY))
    (folder / "signing.pub").write_bytes(_public(KEY))
    (folder / "other.pub").write_bytes(_public(OTHER))
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        command = [str(binary), "serve", str(folder / "config.yaml")]
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        for _ in range(100):
            try:
                assert requests.get(f"{url}/v2/", timeout=1).status_code == 401
                break
            except requests.ConnectionError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        else:
            raise TimeoutError((folder / "log").read_text())
        yield Site(url, folder)
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_from_add_to_pull(site: Site, tmp_path: Path) -> None:
    added = site.add(1, "--json")
    assert added.returncode == 0, added.stderr
    told = json.loads(added.stdout)
    assert told["new"] and told["revision"] == COMMIT
    again = site.add(1, "--json")
    assert again.returncode == 0 and not json.loads(again.stdout)["new"]
    listed = json.loads(site.read("list", "--json").stdout)
    assert (1, True) in [(one["version"], one["verified"]) for one in listed]
    by_digest = json.loads(site.read("show", told["digest"], "--json").stdout)
    assert by_digest["metrics"] == ABOUT["metrics"]
    assert site.read("verify", "1").returncode == 0
    assert site.read("pull", "1", str(tmp_path / "pulled")).returncode == 0
    sent = (site.folder / "version" / "model.onnx").read_bytes()
    assert (tmp_path / "pulled" / "model.onnx").read_bytes() == sent


def test_a_number_is_given_once(site: Site) -> None:
    assert site.add(2).returncode == 0
    file = site.folder / "version" / "model.onnx"
    before = file.read_bytes()
    file.write_bytes(b"another")
    try:
        refused = site.add(2)
    finally:
        file.write_bytes(before)
    assert refused.returncode == 1
    assert "take another number" in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_who_is_not_logged_in_is_told_how(site: Site) -> None:
    for login in ("nobody", "mistaken"):
        refused = site.add(9, login=login)
        assert refused.returncode == 1
        assert "401" in refused.stderr and "docker" in refused.stderr
        assert WRONG not in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_a_key_that_did_not_sign(site: Site) -> None:
    assert site.add(3).returncode == 0
    refused = site.estate("show", "digits", "3", "--trust", str(site.folder / "other.pub"))
    assert refused.returncode == 1 and "by a trusted key" in refused.stderr


def test_a_damaged_copy_is_named(site: Site) -> None:
    assert site.add(4).returncode == 0
    digest = json.loads(site.read("show", "4", "--json").stdout)["files"]["model.onnx"]
    (blob,) = site.folder.glob(f"data/**/{digest.removeprefix('sha256:')}/data")
    before = blob.read_bytes()
    blob.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        refused = site.read("verify", "4")
    finally:
        blob.write_bytes(before)
    assert refused.returncode == 1 and "the registry's copy is damaged" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "digits", "77"), "MANIFEST_UNKNOWN"),
        (("show", "nothing", "1"), "404"),
        (("show", "Digits", "1"), "is no repository's name"),
        (("show", "digits", "a b"), "is neither a tag nor a digest"),
        (("list", "nothing"), "NAME_UNKNOWN"),
    ],
)
def test_what_is_not_there(site: Site, arguments: tuple[str, ...], words: str) -> None:
    refused = site.estate(*arguments, "--trust", str(site.folder / "signing.pub"))
    assert refused.returncode == 1
    assert words in refused.stderr and len(refused.stderr.splitlines()) == 1


# -- what is declared ------------------------------------------------------------------------------


@dataclass
class Declared:
    """A clone with model.yaml, and versions 1 to 4 of its model in repositories of its own."""

    site: Site
    clone: Clone
    digests: dict[int, str]

    def estate(self, command: str, *arguments: str, trust: bool = True) -> tuple[int, str, str]:
        public = ("--trust", str(self.site.folder / "signing.pub")) if trust else ()
        done = self.site.estate(
            *(command, *arguments, *public, "--models", str(self.clone.folder)),
            *("--registry", f"{self.site.url}/{self.clone.root.parent.name}"),
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def declared(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Declared:
    root = tmp_path_factory.mktemp("declared", numbered=True)
    registry = Registry(f"{site.url}/{root.name}", (USER, PASSWORD), writes=True)
    clone = Clone(root / "clone", Repository(registry, [KEY.public_key()]))
    # The registry stores what several repositories have once: the description is one's own.
    digests = {number: clone.add(number, description=root.name) for number in (1, 2, 3, 4)}
    return Declared(site, clone, digests)


def test_promoted_listed_and_taken_back(declared: Declared) -> None:
    code, out, err = declared.estate("promote", "digits", "2", "--environment", "local")
    assert code == 0, err
    assert "-  local: {version: 1}  # of the rehearsal\n+  local: {version: 2}" in out
    assert "next: ./estate preview, then ./estate up" in err
    code, out, err = declared.estate("promote", "digits", "2", "--environment", "local")
    assert (code, out) == (0, "") and "nothing changed: environment local had" in err
    declared.clone.commit()

    places = ("--environment", "onprem", "--edge-group", "press", "--new-group")
    code, out, err = declared.estate("promote", "digits", declared.digests[3], *places, "--json")
    assert code == 0, err
    served = {"version": 3, "digest": declared.digests[3]}
    assert [one["after"] for one in json.loads(out)["changes"]] == [served] * 2
    code, out, err = declared.estate("declared", "--json")
    assert code == 0, err
    assert {
        one["for"]: (one["version"], one["digest"], one["verified"]) for one in json.loads(out)
    } == {
        "environment local": (2, declared.digests[2], True),
        "environment onprem": (3, declared.digests[3], True),
        "edge group press": (3, declared.digests[3], True),
    }
    code, out, err = declared.estate("rollback", "digits", "--environment", "local")
    assert code == 0 and "+  local: {version: 1}  # of the rehearsal" in out, err


def test_what_is_declared_and_does_not_verify(declared: Declared) -> None:
    declared.clone.file.write_text(
        f"{MODEL}  onprem: {{version: 2, digest: {declared.digests[1]}}}\n"
        "edge_groups: {press: {version: 2}}\n"
    )
    code, out, _ = declared.estate("declared", "--json")
    assert code == 1
    why = {one["for"]: one["why"] for one in json.loads(out)}
    assert why == {
        "environment local": "",
        "environment onprem": "that digest is of version 1",
        "edge group press": "has no digest: model promote writes it",
    }
    code, out, _ = declared.estate("declared", "--environment", "local")
    assert code == 0 and "yes" in out and "onprem" not in out
    code, out, _ = declared.estate("declared", "--offline", trust=False)
    assert code == 1 and "not asked" in out and "no: has no digest" in out


def test_refused_in_one_line_and_nothing_is_written(declared: Declared) -> None:
    for arguments, words in (
        (("promote", "digits", "7", "--environment", "local"), "MANIFEST_UNKNOWN"),
        (("promote", "nothing", "1", "--environment", "local"), "MODEL: 'nothing'; choose one"),
        (("promote", "digits", "2"), "--environment: is not given; say who takes it"),
        (("promote", "digits", "2", "--environment", "onpren"), "choose from: "),
        (("promote", "digits", "2", "--edge-group", "pres"), "begin that group by --new-group"),
        (("rollback", "digits", "--environment", "local"), "had no version before 1"),
        (("rollback", "digits", "--environment", "local", "--to", "3"), "never had it"),
    ):
        code, out, err = declared.estate(*arguments)
        assert code and not out and words in err and len(err.splitlines()) == 1, err
    code, _, err = declared.estate("gc", "nothing", trust=False)
    assert code and "MODEL: 'nothing'; choose one" in err and len(err.splitlines()) == 1
    assert declared.clone.text == MODEL


def test_gc_deletes_for_real(declared: Declared) -> None:
    site, clone = declared.site, declared.clone
    clone.commit(MODEL.replace("version: 1", "version: 2"))
    stored = clone.repository.show("digits", "3")
    blob = f"data/**/{stored.config.digest.removeprefix('sha256:')}/data"
    code, out, err = declared.estate("gc", "--keep", "1", trust=False)
    assert code == 0 and "--yes deletes 2 versions" in err, err
    assert out.count("nothing: goes") == 2
    assert clone.repository.numbers("digits") == [1, 2, 3, 4]
    code, _, err = declared.estate("gc", "--keep", "1", "--yes", trust=False)
    assert code == 0 and "deleted 2 versions" in err, err
    assert clone.repository.numbers("digits") == [2, 4]
    tags = clone.repository.registry.tags("models/digits")
    assert len([tag for tag in tags if tag.endswith(".sig")]) == 2
    for number in (2, 4):
        assert clone.repository.verify("digits", str(number)).digest == declared.digests[number]
    code, _, err = declared.estate("gc", "--keep", "1", "--yes", trust=False)
    assert code == 0 and "nothing to delete" in err

    assert list(site.folder.glob(blob)), "the registry still has its bytes"
    binary = tools.find(tools.catalogue()["registry"])
    assert binary is not None
    command = [str(binary), "garbage-collect", str(site.folder / "config.yaml")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert not list(site.folder.glob(blob)), "until its garbage collection"
    assert clone.repository.verify("digits", "2")


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The two processes of the component, as it configures them, on ports and a disk of the test.

    Their users have PASSWORD.
    """
    binary = tools.find(tools.catalogue()["registry"])
    if binary is None:
        pytest.skip("registry is not built: ./estate tools build registry")
    folder = tmp_path_factory.mktemp("doors")
    urls, running = {}, []
    for door, user in ((files.PUBLISH, PUBLISHER), (files.READ, READER)):
        settings = json.loads(files.registry_config(door))
        port = free_port()
        settings["http"] |= {"addr": f"127.0.0.1:{port}"}
        settings["http"]["debug"]["addr"] = f"127.0.0.1:{free_port()}"
        settings["storage"]["filesystem"]["rootdirectory"] = str(folder / "data")
        settings["auth"]["htpasswd"]["path"] = str(folder / user)
        (folder / user).write_text(f"{user}:{_HASH}\n")
        (folder / f"{door}.yaml").write_text(json.dumps(settings))
        command = [str(binary), "serve", str(folder / f"{door}.yaml")]
        with (folder / f"{door}.log").open("w") as log:
            running.append(subprocess.Popen(command, stderr=log, stdout=log))
        urls[door] = f"http://127.0.0.1:{port}"
    try:
        for url in urls.values():
            for _ in range(100):
                try:
                    assert requests.get(f"{url}/v2/", timeout=1).status_code == 401
                    break
                except requests.ConnectionError:
                    time.sleep(0.1)
            else:
                raise TimeoutError(url)
        yield urls
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=20)


def test_what_one_process_takes_the_other_gives_and_takes_nothing(doors: dict[str, str]) -> None:
    content, about = b"weights", b"{}"
    layer, config = described("application/octet-stream", content), described("a/b", about)
    manifest = image_manifest(config, [layer])
    writes = Registry(doors["publish"], (PUBLISHER, PASSWORD), writes=True)
    reads = Registry(doors["read"], (READER, PASSWORD))
    writes.put_bytes("models/a", layer, content)
    writes.put_bytes("models/a", config, about)
    digest = writes.put_manifest("models/a", "1", manifest)
    assert reads.manifest("models/a", digest) == reads.manifest("models/a", "1")
    assert b"".join(reads.blob("models/a", layer)) == content
    with pytest.raises(OciError, match="405"):
        Registry(doors["read"], (READER, PASSWORD), writes=True).put_bytes(
            "models/a", described("a/b", b"new"), b"new"
        )
    for door, user in (("publish", READER), ("read", PUBLISHER)):
        with pytest.raises(OciError, match="401"):
            Registry(doors[door], (user, PASSWORD)).tags("models/a")
    # Deleted at one door is gone at the other: neither keeps what it has once seen.
    url = f"{doors['publish']}/v2/models/a/manifests/{digest}"
    gone = requests.delete(url, auth=(PUBLISHER, PASSWORD), timeout=5)
    assert gone.status_code == 202
    with pytest.raises(NotThere):
        reads.manifest("models/a", digest)
