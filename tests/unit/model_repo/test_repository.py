"""Versions in a registry: added once, signed, refused when anything of them is another."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from components.model_repository.ecr_policies import SIGNATURES
from model_repo import signing, version
from model_repo.oci import NotThere, OciError, Registry, canonical, digest_of
from model_repo.repository import Repository
from tests.unit.model_repo.registry import MemoryRegistry

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ABOUT: dict[str, Any] = {
    "name": "digits",
    "framework": "onnx",
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8]}],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
    "metrics": {"accuracy": 0.97},
    "training_data": {"dataset": "digits", "version": "1", "digest": "sha256:" + "0" * 64},
    "licence": "BSD-3-Clause",
}


@pytest.fixture
def repository(server: MemoryRegistry) -> Repository:
    return Repository(Registry(f"{server.url}/estate"), [KEY.public_key()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "version"
    (made / "variables").mkdir(parents=True)
    (made / "version.yaml").write_text(yaml.safe_dump(ABOUT))
    (made / "model.onnx").write_bytes(b"graph")
    (made / "variables" / "data-00000-of-00001").write_bytes(b"weights")
    return made


def add(repository: Repository, folder: Path, number: int = 1) -> str:
    return repository.add(folder, number, COMMIT, KEY)[0].digest


def test_a_folder_without_its_model_is_none(repository: Repository, folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "weights.bin")
    with pytest.raises(OciError, match=r"has no model\.onnx, which is a model in onnx"):
        add(repository, folder)
    assert repository.registry.digest("models/digits", "1") is None


def test_a_version_comes_back_as_it_was_added(
    repository: Repository, folder: Path, tmp_path: Path
) -> None:
    digest = add(repository, folder)
    target = tmp_path / "pulled"
    stored = repository.pull("digits", "1", target)
    assert stored.digest == digest and stored.version.revision == COMMIT
    assert (target / "model.onnx").read_bytes() == b"graph"
    assert (target / "variables" / "data-00000-of-00001").read_bytes() == b"weights"
    assert json.loads((target / "version.json").read_text())["version"] == 1
    assert repository.verify("digits", digest) == stored
    assert repository.numbers("digits") == [1]


def test_it_is_a_modelpack(repository: Repository, server: MemoryRegistry, folder: Path) -> None:
    digest = add(repository, folder)
    manifest = json.loads(server.manifests["estate/models/digits", digest])
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    config = json.loads(server.blobs["estate/models/digits", manifest["config"]["digest"]])
    assert set(config) == {"descriptor", "config", "modelfs"}
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]


def test_the_same_again_changes_nothing(
    repository: Repository, server: MemoryRegistry, folder: Path
) -> None:
    digest = add(repository, folder)
    before = dict(server.manifests)
    stored, new = repository.add(folder, 1, COMMIT, KEY)
    assert (stored.digest, new, server.manifests) == (digest, False, before)


def test_another_content_under_the_same_number_is_refused(
    repository: Repository, folder: Path
) -> None:
    digest = add(repository, folder)
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(OciError, match="never changed: take another number"):
        add(repository, folder)
    assert repository.show("digits", "1").digest == digest
    assert add(repository, folder, 2) != digest
    assert repository.numbers("digits") == [1, 2]


def test_interrupted_before_the_tag_it_is_not_there_and_goes_on(
    repository: Repository, server: MemoryRegistry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(signing, "sign", killed)
        with pytest.raises(KeyboardInterrupt):
            add(repository, folder)
    with pytest.raises(NotThere):
        repository.show("digits", "1")
    server.asked = []
    add(repository, folder)
    sent = [path for method, path, _ in server.asked if method == "POST"]
    assert len(sent) == 2, "the signature's payload and configuration alone"
    assert repository.verify("digits", "1")


def test_who_signed_decides(repository: Repository, folder: Path) -> None:
    digest = add(repository, folder)
    stranger = Repository(repository.registry, [OTHER.public_key()])
    with pytest.raises(signing.Unsigned, match="none of its 1 signatures is by a trusted key"):
        stranger.show("digits", "1")
    with pytest.raises(signing.Unsigned, match="no trusted key was given"):
        Repository(repository.registry).show("digits", "1")
    repository.add(folder, 1, COMMIT, OTHER)
    assert stranger.show("digits", "1").digest == digest
    assert repository.show("digits", "1").digest == digest, "the first signature stays"


def test_all_keys_of_a_file_count(tmp_path: Path) -> None:
    """Told apart with and without a line's end: while one replaces another, a file has both."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    one, other = (
        key.public_key().public_bytes(serialization.Encoding.PEM, form) for key in (KEY, OTHER)
    )
    file = tmp_path / "signing.pub"
    for text in (one + other, one + b"\n" + other.rstrip()):
        file.write_bytes(text)
        found = [key.public_numbers() for key in signing.trusted([file])]
        assert found == [key.public_key().public_numbers() for key in (KEY, OTHER)]


def test_without_a_signature_it_is_not_read(
    repository: Repository, server: MemoryRegistry, folder: Path
) -> None:
    digest = add(repository, folder)
    del server.manifests["estate/models/digits", signing.tag_of(digest)]
    with pytest.raises(signing.Unsigned, match="is not signed"):
        repository.show("digits", "1")


def test_a_damaged_signature_does_not_hide_another(
    repository: Repository, server: MemoryRegistry, folder: Path
) -> None:
    digest = add(repository, folder)
    repository.add(folder, 1, COMMIT, OTHER)
    name = "estate/models/digits"
    manifest = json.loads(server.manifests[name, signing.tag_of(digest)])
    manifest["layers"].insert(0, {**manifest["layers"][0], "digest": "sha256:" + "f" * 64})
    server.manifests[name, signing.tag_of(digest)] = canonical(manifest)
    assert repository.show("digits", "1").digest == digest


def test_two_at_the_same_moment_do_not_both_succeed(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = repository.registry.put_manifest

    def and_another(name: str, reference: str, content: bytes) -> str:
        digest = put(name, reference, content)
        if reference == "1":
            put(name, reference, b'{"somebody": "else"}')
        return digest

    monkeypatch.setattr(repository.registry, "put_manifest", and_another)
    with pytest.raises(OciError, match="somebody else added it at the same moment"):
        add(repository, folder)


def test_a_signature_of_another_version_is_none_of_this(
    repository: Repository, server: MemoryRegistry, folder: Path
) -> None:
    first = add(repository, folder)
    (folder / "model.onnx").write_bytes(b"another")
    second = add(repository, folder, 2)
    name = "estate/models/digits"
    server.manifests[name, signing.tag_of(second)] = server.manifests[name, signing.tag_of(first)]
    with pytest.raises(signing.Unsigned, match="by a trusted key"):
        repository.show("digits", "2")


def test_a_tag_that_was_moved_to_another_version_is_noticed(
    repository: Repository, server: MemoryRegistry, folder: Path
) -> None:
    first = add(repository, folder)
    add(repository, folder, 2)
    name = "estate/models/digits"
    server.manifests[name, "2"] = server.manifests[name, first]
    with pytest.raises(OciError, match="is version 1 of it"):
        repository.show("digits", "2")


def test_a_damaged_file_is_found_and_nothing_of_it_stays(
    repository: Repository, server: MemoryRegistry, folder: Path, tmp_path: Path
) -> None:
    add(repository, folder)
    server.blobs["estate/models/digits", digest_of(b"weights")] = b"weightz"
    with pytest.raises(OciError, match="the registry's copy is damaged"):
        repository.verify("digits", "1")
    with pytest.raises(OciError, match="the registry's copy is damaged"):
        repository.pull("digits", "1", tmp_path / "pulled")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["version"]


def test_a_folder_that_holds_something_else_is_left_alone(
    repository: Repository, folder: Path, tmp_path: Path
) -> None:
    add(repository, folder)
    target = tmp_path / "pulled"
    repository.pull("digits", "1", target)
    repository.pull("digits", "1", target)
    (folder / "model.onnx").write_bytes(b"another")
    add(repository, folder, 2)
    with pytest.raises(OciError, match="holds something else"):
        repository.pull("digits", "2", target)
    assert (target / "model.onnx").read_bytes() == b"graph"
    (target / "model.onnx").write_bytes(b"grapH")
    with pytest.raises(OciError, match="holds something else"):
        repository.pull("digits", "1", target)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda about: about.pop("licence"), "licence: Field required"),
        (lambda about: about.update(framework="caffe"), "framework (caffe)"),
        (lambda about: about.update(colour="red"), "colour (red)"),
        (lambda about: about.update(version=3), "version: is not written there"),
        (lambda about: about["inputs"][0].update(shape=[0]), "a dimension is 1 or more, or -1"),
        (lambda about: about["inputs"][0].update(datatype="float"), "inputs.0.datatype (float)"),
        (lambda about: about["inputs"].append(about["inputs"][0]), "a name is there twice"),
        (lambda about: about["metrics"].update(loss=float("nan")), "metrics.loss (nan)"),
        (lambda about: about.update(metrics={}), "metrics ({})"),
        (lambda about: about.update(name="../digits"), "name (../digits)"),
    ],
)
def test_what_a_version_says_of_itself_is_judged(
    repository: Repository,
    server: MemoryRegistry,
    folder: Path,
    change: Callable[[dict[str, Any]], object],
    words: str,
) -> None:
    about = json.loads(json.dumps(ABOUT))
    change(about)
    (folder / "version.yaml").write_text(yaml.safe_dump(about))
    with pytest.raises(OciError) as found:
        add(repository, folder)
    assert words in str(found.value)
    assert not server.asked, "nothing was sent"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "link").symlink_to("/etc/passwd"), "is no regular file"),
        (lambda folder: (folder / "linked").symlink_to("/etc"), "is no regular file"),
        (lambda folder: (folder / "empty").write_bytes(b""), "is empty"),
        (lambda folder: (folder / "a b").write_bytes(b"x"), "is no path below"),
        (lambda folder: (folder / ".hidden").write_bytes(b"x"), "is no path below"),
        (lambda folder: (folder / "version.json").write_bytes(b"x"), "is no path below"),
        (lambda folder: (folder / "version.yaml").unlink(), "is not there"),
        (lambda folder: (folder / "version.yaml").write_text("- a"), "is no mapping"),
        (lambda folder: (folder / "version.yaml").write_text("a: [", "utf-8"), "cannot be read"),
        (lambda folder: (folder / "version.yaml").write_bytes(b"\xff"), "cannot be read"),
    ],
)
def test_files_that_no_version_can_have(
    repository: Repository,
    server: MemoryRegistry,
    folder: Path,
    spoil: Callable[[Path], object],
    words: str,
) -> None:
    spoil(folder)
    with pytest.raises(OciError) as found:
        add(repository, folder)
    assert words in str(found.value)
    assert not server.asked


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a/../b", "", "a//b", ".digest"])
def test_a_layer_cannot_leave_the_folder(
    repository: Repository, server: MemoryRegistry, folder: Path, tmp_path: Path, path: str
) -> None:
    """Signed by a key that is trusted: the last line of defence."""
    digest = add(repository, folder)
    name = "estate/models/digits"
    manifest = json.loads(server.manifests[name, digest])
    manifest["layers"][0]["annotations"][version.FILEPATH] = path
    spoilt = canonical(manifest)
    server.manifests[name, digest_of(spoilt)] = spoilt
    signing.sign(repository.registry, "models/digits", digest_of(spoilt), KEY)
    with pytest.raises(OciError, match="is no path below the model's folder"):
        repository.pull("digits", digest_of(spoilt), tmp_path / "pulled")


def test_what_is_no_model_is_not_taken_for_one(
    repository: Repository, server: MemoryRegistry
) -> None:
    digest = repository.registry.put_manifest("models/digits", "1", b'{"layers":[]}')
    signing.sign(repository.registry, "models/digits", digest, KEY)
    with pytest.raises(OciError, match="is no model: its artifactType is 'None'"):
        repository.show("digits", "1")


def pem(key: Any, password: bytes | None = None) -> bytes:
    how: Any = serialization.NoEncryption()
    if password:
        how = serialization.BestAvailableEncryption(password)
    form = serialization.PrivateFormat.PKCS8
    found: bytes = key.private_bytes(serialization.Encoding.PEM, form, how)
    return found


def test_keys() -> None:
    assert signing.private_key(pem(KEY)).private_numbers() == KEY.private_numbers()
    assert signing.private_key(pem(KEY, b"pass"), b"pass")
    for wrong in (
        (pem(KEY, b"pass"), None),
        (pem(KEY, b"pass"), b"other"),
        (b"nonsense", None),
        (pem(ec.generate_private_key(ec.SECP384R1())), None),
        (pem(rsa.generate_private_key(65537, 2048)), None),
    ):
        with pytest.raises(OciError, match="the signing key"):
            signing.private_key(*wrong)
    with pytest.raises(OciError, match="a trusted key: holds no public key"):
        signing.public_key(b"nonsense")


def test_where_tags_do_not_move_a_second_key_signs_all_the_same(
    repository: Repository, server: MemoryRegistry, folder: Path
) -> None:
    """As ECR is declared: immutable but for the tags of signatures."""
    answer = server.answer

    def immutable(
        method: str, path: str, said: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        name, _, tag = path.removeprefix("/v2/").partition("/manifests/")
        there = method == "PUT" and (name, tag) in server.manifests
        if there and not tag.startswith("sha256:") and not fnmatchcase(tag, SIGNATURES):
            words = {"errors": [{"code": "TAG_INVALID", "message": "the repository is immutable"}]}
            return 400, {}, json.dumps(words).encode()
        return answer(method, path, said, body)

    server.answer = immutable  # type: ignore[method-assign]
    digest = add(repository, folder)
    assert add(repository, folder) == digest
    stored, new = repository.add(folder, 1, COMMIT, OTHER)
    assert (stored.digest, new) == (digest, False)
    other = Repository(repository.registry, [OTHER.public_key()])
    assert other.show("digits", "1").digest == digest
    with pytest.raises(OciError, match="TAG_INVALID"):
        repository.registry.put_manifest("models/digits", "1", b"{}")
