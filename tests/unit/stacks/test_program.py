from __future__ import annotations

from pathlib import Path

import pulumi
import pytest

from components.model import Images, SecretRef
from configs.errors import ConfigError
from configs.schema import Environment
from stacks.context import Context, manifest, missing_secret_files
from stacks.secret_sources import SecretSources
from tests.rendering import render


def context(folder: Path | None) -> Context:
    return Context(
        environment=Environment(),
        images=Images({}),
        stack="test",
        config=pulumi.Config("estate"),
        sources=SecretSources(folder),
    )


def test_the_program_hands_back_checks_and_pods_of_all_layers() -> None:
    rendered = render("local")
    owners = {check["id"].split(".")[0] for check in rendered.checks}
    assert {"cert-manager", "pki", "mosquitto", "kafka", "postgres"} <= owners
    counts = {pods["name"]: pods["count"] for pods in rendered.expected_pods}
    assert counts["kafka"] == 3
    assert counts["mosquitto"] == 1


def test_trust_is_in_every_namespace() -> None:
    maps = [m for m in render("local").objects("ConfigMap") if m["metadata"]["name"] == "estate-ca"]
    assert {m["metadata"]["namespace"] for m in maps} == {
        "platform",
        "datalake",
        "realtime",
        "serving",
        "monitoring",
    }
    assert {m["data"]["ca.crt"] for m in maps} == {"CERTIFICATE"}


def test_kafkas_administrator_is_certified_by_kafkas_own_authority() -> None:
    rendered = render("local")
    for name in ("kafka-admin", "kafka-internal-tls"):
        issuer = rendered.object("Certificate", name)["spec"]["issuerRef"]
        assert (issuer["kind"], issuer["name"]) == ("Issuer", "kafka-internal")
    assert rendered.object("Certificate", "kafka-tls")["spec"]["issuerRef"]["name"] == "estate-ca"


def test_the_job_runs_again_when_declaration_or_passwords_change() -> None:
    job = render("local").object("Job", "kafka-reconcile")
    annotations = job["spec"]["template"]["metadata"]["annotations"]
    assert set(annotations) == {"estate.dev/declaration", "estate.dev/passwords"}


@pytest.mark.parametrize("release", ["1.11.5", "1.21.2"])
def test_the_vendored_release_is_whole_and_unprivileged(release: str) -> None:
    objects = manifest(f"cert-manager-{release}")
    kinds = [body["kind"] for body in objects]
    assert kinds.count("CustomResourceDefinition") == 6
    assert kinds.count("Deployment") == 3
    assert not any(body["metadata"].get("namespace") == "kube-system" for body in objects)


def test_a_release_that_was_never_vendored_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"no release manifest cert-manager-9\.9\.9\.yaml; add it"
    ):
        manifest("cert-manager-9.9.9")


def test_a_secret_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("value\n", encoding="utf-8")
    found = context(tmp_path)
    assert found.sources.read(SecretRef(file="a")) == "value"
    resolved: list[str] = []

    # No output is made here: Pulumi would wait for it in whichever test runs a program next.
    def resolve(ref: SecretRef) -> str:
        resolved.append(ref.source)
        return ref.source

    monkeypatch.setattr(found, "_resolve", resolve)
    for _ in range(2):
        found.secret(SecretRef(file="a"))
    found.secret(SecretRef(file="b"))
    assert resolved == ["file a", "file b"]


@pytest.mark.parametrize(("text", "words"), [("", "one line"), ("a\nb", "one line")])
def test_an_unusable_secret_names_its_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        context(tmp_path).secret(SecretRef(file="a"))


def test_a_pem_is_the_one_secret_of_several_lines(tmp_path: Path) -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----"
    (tmp_path / "a.pub").write_text(f"{pem}\n", encoding="utf-8")
    assert context(tmp_path).sources.read(SecretRef(file="a.pub")) == pem


def test_a_missing_secret_says_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="estate up makes"):
        context(tmp_path).secret(SecretRef(file="a"))
    with pytest.raises(ConfigError, match="ESTATE_SECRETS"):
        context(None).secret(SecretRef(file="a"))
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(ConfigError, match="NOT_THERE"):
        context(None).secret(SecretRef(env="NOT_THERE"))


def test_missing_secret_files_are_listed(tmp_path: Path) -> None:
    from configs.schema import load

    environment = load(Path(__file__).parents[3] / "configs" / "Pulumi.local.yaml")
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "bridge").write_text("x", encoding="utf-8")
    missing = missing_secret_files(environment, tmp_path)
    assert "kafka/verify" in missing
    assert "kafka/bridge" not in missing
