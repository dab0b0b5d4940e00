"""What `gc` keeps in the rehearsal's own registry: what its cluster refers to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from model_repo import declared_commands
from model_repo.commands import REGISTRY_VARIABLE, Where
from model_repo.declared import Served
from rehearsal import serving_state
from rehearsal.errors import EstateError
from rehearsal.kube import ApiError
from rehearsal.rehearsal import Rehearsal
from services.serving.model import DECLARED_LABEL
from tests.unit.model_repo.conftest import server, site
from tests.unit.model_repo.site import MODEL, Site
from tests.unit.rehearsal.conftest import Folders

__all__ = ["server", "site"]


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def version(number: int, of: str | None = None) -> dict[str, Any]:
    return {"version": number, "digest": of or digest(number)}


def declaration(number: int, of: str | None = None) -> dict[str, str]:
    value = {"name": "digits", **version(number, of), "serving": {"pool": "cpu"}, "rollout": {}}
    return {"model.json": json.dumps(value)}


def assignments(*versions: dict[str, Any], canary: dict[str, Any] | None = None) -> dict[str, str]:
    def track(found: list[dict[str, Any]]) -> str:
        return json.dumps([{"name": "digits", "versions": found, "serving": {"pool": "cpu"}}])

    return {"stable": track(list(versions)), "canary": track([canary]) if canary else "[]"}


class FakeApi:
    """The ConfigMaps of one namespace, or an API that fails."""

    def __init__(self) -> None:
        self.config_maps: dict[str, dict[str, str]] = {}
        self.fails: ApiError | None = None

    def path(self, api_version: str, kind: str, namespace: str) -> str:
        assert (api_version, kind, namespace) == ("v1", "ConfigMap", "serving")
        return "config-maps"

    def request(self, method: str, path: str) -> dict[str, Any]:
        assert (method, path) == ("GET", "config-maps")
        if self.fails is not None:
            raise self.fails
        return {
            "items": [
                {
                    "metadata": {"name": name}
                    | ({"labels": {DECLARED_LABEL: "x"}} if name.startswith("model-") else {}),
                    "data": data,
                }
                for name, data in self.config_maps.items()
            ]
            # As the API leaves out what is empty.
            + [{"metadata": {"name": "kube-root-ca.crt", "labels": None}}]
        }


@pytest.fixture
def rehearsal(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    monkeypatch.delenv(REGISTRY_VARIABLE, raising=False)
    found = Rehearsal("one")
    found.prepare("node", "", None)
    return found


@pytest.fixture
def api(rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    made = FakeApi()
    monkeypatch.setattr(serving_state, "Api", lambda *_, **__: made)
    return made


def test_all_that_the_cluster_refers_to(rehearsal: Rehearsal, api: FakeApi) -> None:
    api.config_maps = {
        "model-digits": declaration(6),
        "serving-assignments": assignments(version(3), version(4), canary=version(5)),
        "serving-state": {
            "digits": json.dumps(
                {
                    "stable": version(4),
                    "candidate": version(5),
                    "before": [version(1), version(4)],
                    "refused": {**version(2), "gate": "golden", "why": "no", "at": 1.0},
                }
            ),
            "anomaly": json.dumps({"stable": version(9)}),
        },
        "serving-traffic": {"weights": "digits 5\n"},
    }
    found = serving_state.uses(rehearsal)
    assert {one.version: why for one, why in found["digits"].items()} == {
        6: "declared in rehearsal one",
        3: "served by rehearsal one",
        4: "served by rehearsal one",
        5: "served by rehearsal one",
        1: "served before by rehearsal one",
    }
    assert list(found["anomaly"]) == [Served(version=9, digest=digest(9))]


def test_a_rehearsal_that_declares_no_models(rehearsal: Rehearsal, api: FakeApi) -> None:
    assert serving_state.uses(rehearsal) == {}


def test_a_cluster_that_does_not_answer(rehearsal: Rehearsal, api: FakeApi) -> None:
    for status, words in ((0, "the Kubernetes API does not answer: no\nroute"), (403, "forbidden")):
        api.fails = ApiError(status, words)
        with pytest.raises(EstateError, match=r"run: \./estate up --name one") as refused:
            serving_state.uses(rehearsal)
        assert "\n" not in str(refused.value) and refused.value.exit_code == 1


def test_a_rehearsal_without_its_kubeconfig(rehearsal: Rehearsal) -> None:
    with pytest.raises(EstateError, match=r"run: \./estate up"):
        serving_state.uses(rehearsal)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model-digits", {}),
        ("model-digits", {"model.json": '{"name": "digits"}'}),
        ("serving-assignments", {"stable": "["}),
        ("serving-assignments", {"stable": "[]"}),
        ("serving-state", {"digits": '{"stable": 1}'}),
    ],
)
def test_what_cannot_be_read_is_not_taken_for_nothing(
    rehearsal: Rehearsal, api: FakeApi, name: str, data: dict[str, str]
) -> None:
    api.config_maps[name] = data
    with pytest.raises(EstateError, match=f"rehearsal one: ConfigMap {name}: cannot be read"):
        serving_state.uses(rehearsal)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def own(site: Site, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A registry that is the rehearsal's own, with versions 1 to 4 of which files declare 1."""
    for number in (1, 2, 3, 4):
        site.add(number)
    site.commit(MODEL)
    monkeypatch.setattr(Where, "open", lambda *_, **__: site.repository)
    return site


def collected(site: Site, registry: str | None = None, *, yes: bool = True) -> list[int]:
    code = declared_commands.gc(
        [], 1, yes, site.folder, False, name="one", registry=registry, ca=None, trust=[]
    )
    assert code == 0
    return site.repository.numbers("digits")


def test_what_is_served_stays_whatever_the_files_say(
    own: Site, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promoted, rolled out, and the line taken back without `up`."""
    two = own.repository.show("digits", "2").digest
    api.config_maps = {
        "model-digits": declaration(2, two),
        "serving-assignments": assignments(version(2, two)),
    }
    assert collected(own) == [1, 2, 4]
    assert "served by rehearsal one" in capsys.readouterr().out
    assert own.repository.verify("digits", "2")
    assert collected(own) == [1, 2, 4]


def test_nothing_goes_while_the_cluster_is_away(own: Site, api: FakeApi) -> None:
    api.fails = ApiError(0, "the Kubernetes API does not answer")
    with pytest.raises(EstateError, match="does not say which models it serves"):
        collected(own)
    assert own.repository.numbers("digits") == [1, 2, 3, 4]


def test_where_nothing_is_served_files_and_git_count(own: Site) -> None:
    assert collected(own) == [1, 4]


def test_another_registry_asks_no_cluster(own: Site, api: FakeApi) -> None:
    api.fails = ApiError(0, "the Kubernetes API does not answer")
    assert collected(own, "https://registry.example") == [1, 4]


def test_a_registry_that_the_environment_names_asks_none_either(
    own: Site, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REGISTRY_VARIABLE, "https://registry.example")
    api.fails = ApiError(0, "the Kubernetes API does not answer")
    assert collected(own) == [1, 4]
