"""The registry by Amazon ECR: what AWS is told, what the token's pod may, and when it is needed."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks
from pulumi.runtime.stack import wait_for_rpcs

from components.flows import API_SERVER, OUTSIDE, Pods
from components.model import Image, Images
from components.model_repository.config import ModelRepositoryConfig
from components.model_repository.ecr import ROLE, SCHEDULE, Ecr
from components.model_repository.ecr_policies import SIGNATURES
from components.triton.checks import serving_checks
from components.triton.pods import registry_settings
from configs.schema import Environment
from model_repo.oci import Registry
from model_repo.repository import place
from model_repo.signing import tag_of
from policies import model
from stacks import model_repository
from stacks.context import Context
from stacks.secret_sources import SecretSources
from tests.policies import broken
from tests.state.probes.model_registry import token
from tests.unit.components.datalake.test_postgres_resources import plain
from tests.unit.components.model_repository.test_config import ECR, ECR_VALUES, PUBLIC
from tests.unit.components.triton.made import MODELS
from tests.unit.model_repo.registry import MemoryRegistry

ASKS = Pods(name="triton", namespace="serving", selector={"app": "triton"})
TOKEN = "model-registry-token"
SECRET = "model-registry-reader"
HOST = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


class Recorder(mocks.Mocks):
    def __init__(self) -> None:
        self.made: list[tuple[str, str, dict[str, Any]]] = []

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        self.made.append((args.typ, args.name, plain(dict(args.inputs))))
        return f"{args.name}-id", {"arn": f"arn-of-{args.name}", **args.inputs}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        raise AssertionError(f"the program calls {args.token}")


class Monitor(mocks.MockMonitor):
    """Keeps what mocks are not told."""

    def __init__(self, found: Recorder) -> None:
        super().__init__(found)
        self.protected: set[tuple[str, str]] = set()

    def RegisterResource(self, request: Any) -> Any:
        if request.protect:
            self.protected.add((request.type, request.name))
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


class Made:
    """All resources of a program."""

    def __init__(self, program: Callable[[], Any]) -> None:
        recorder = Recorder()
        monitor = Monitor(recorder)
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        mocks.set_mocks(recorder, preview=False, monitor=monitor)
        self.component = program()
        loop.run_until_complete(wait_for_rpcs())
        loop.close()
        self.resources, self.protected = recorder.made, monitor.protected
        self.objects = [body for typ, _, body in recorder.made if typ.startswith("kubernetes:")]

    def all(self, kind: str) -> dict[str, dict[str, Any]]:
        """AWS's of a type, by name: `ecr/repository:Repository`."""
        return {name: body for typ, name, body in self.resources if typ == f"aws:{kind}"}

    def aws(self) -> list[str]:
        return [typ for typ, _, _ in self.resources if typ.startswith("aws:")]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = [o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        return found

    def pods(self) -> list[dict[str, Any]]:
        """Of the CronJob, and of the Job for the first token."""
        regular = self.get("CronJob", TOKEN)["spec"]["jobTemplate"]["spec"]
        first = self.get("Job", f"{TOKEN}-first")["spec"]
        return [dict(one["template"]["spec"]) for one in (regular, first)]


def image(key: str) -> Image:
    return Image(repository=f"registry.example/{key}", tag="1", digest="sha256:" + "a" * 64)


def ecr(aws: bool = True, **changes: Any) -> Made:
    values = {**ECR_VALUES, "ecr": {**ECR, **changes}}

    def program() -> Ecr:
        provider: Any = None
        if aws:
            import pulumi_aws

            provider = pulumi_aws.Provider("aws", region="eu-central-1")
        return Ecr(
            "model-registry",
            ModelRepositoryConfig.model_validate(values),
            models=["anomaly", "digits"],
            namespace="serving",
            admin_image=image("admin"),
            trusted=[PUBLIC, pulumi.Output.secret(PUBLIC.strip())],
            provider=provider,
            monitors=[],
        )

    return Made(program)


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    yield ecr(expire_untagged_days=14, tags={"owner": "ml"})


def test_every_object_keeps_every_policy(made: Made) -> None:
    assert not broken(model.Subject(one, False) for one in made.objects) and len(made.objects) > 8


# -- AWS ----------------------------------------------------------------------------------------


def test_each_model_has_a_repository_whose_versions_nobody_replaces(made: Made) -> None:
    found = made.all("ecr/repository:Repository")
    assert {one["name"] for one in found.values()} == {place("anomaly"), place("digits")}
    for one in found.values():
        assert one["imageTagMutability"] == "IMMUTABLE_WITH_EXCLUSION"
        assert one["imageTagMutabilityExclusionFilters"] == [
            {"filter": SIGNATURES, "filterType": "WILDCARD"}
        ]
        assert one["imageScanningConfiguration"] == {"scanOnPush": False}
        assert not one["forceDelete"], "with versions in it, it is not deleted"
        assert one["tags"].items() >= {"project": "estate", "owner": "ml"}.items()


def test_the_tags_that_may_move_are_those_of_signatures() -> None:
    assert fnmatchcase(tag_of("sha256:" + "0" * 64), SIGNATURES)
    for number in ("1", "12", "sha256-1", "latest"):
        assert not fnmatchcase(number, SIGNATURES)


def test_versions_are_encrypted_by_a_key_that_rotates(made: Made) -> None:
    (key,) = made.all("kms/key:Key").values()
    assert key["enableKeyRotation"] is True and key["deletionWindowInDays"] == 30
    for one in made.all("ecr/repository:Repository").values():
        assert one["encryptionConfigurations"] == [
            {"encryptionType": "KMS", "kmsKey": "arn-of-model-registry-key"}
        ]


def test_what_would_lose_versions_is_protected(made: Made) -> None:
    assert made.protected == {
        ("aws:kms/key:Key", "model-registry-key"),
        ("aws:ecr/repository:Repository", "model-registry-anomaly"),
        ("aws:ecr/repository:Repository", "model-registry-digits"),
    }


def statements(made: Made) -> list[dict[str, Any]]:
    policies = made.all("ecr/repositoryPolicy:RepositoryPolicy").values()
    found = [json.loads(one["policy"])["Statement"] for one in policies]
    assert len(found) == 2 and found[0] == found[1]
    assert {one["repository"] for one in policies} == {"models/anomaly", "models/digits"}
    return list(found[0])


def test_two_principals_may_what_they_need_and_nobody_else_is_named(made: Made) -> None:
    allowed = {
        one["Principal"]["AWS"]: one["Action"]
        for one in statements(made)
        if one["Effect"] == "Allow"
    }
    read = [
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:GetDownloadUrlForLayer",
    ]
    push = [
        *("ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:ListImages"),
        *("ecr:PutImage", "ecr:UploadLayerPart"),
    ]
    assert allowed == {ECR["reader"]: read, ECR["publisher"]: sorted([*read, *push])}
    assert "*" not in json.dumps(allowed)


def test_what_is_in_clear_is_denied_to_everybody(made: Made) -> None:
    (denied,) = [one for one in statements(made) if one["Effect"] == "Deny"]
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert (denied["Principal"], denied["Action"]) == ("*", "ecr:*")


def test_only_manifests_without_a_tag_go(made: Made) -> None:
    policies = made.all("ecr/lifecyclePolicy:LifecyclePolicy")
    assert len(policies) == 2
    for one in policies.values():
        (rule,) = json.loads(one["policy"])["rules"]
        assert rule["selection"] == {
            "tagStatus": "untagged",
            "countType": "sinceImagePushed",
            "countUnit": "days",
            "countNumber": 14,
        }


def test_nothing_goes_unless_it_is_declared() -> None:
    assert not ecr().all("ecr/lifecyclePolicy:LifecyclePolicy")


def test_environments_of_one_account_have_names_of_their_own() -> None:
    made = ecr(prefix="estate/staging")
    names = {one["name"] for one in made.all("ecr/repository:Repository").values()}
    assert names == {"estate/staging/models/anomaly", "estate/staging/models/digits"}
    # As the client of the registry calls it.
    registry = Registry(made.component.repository.read_address)
    assert registry.full_name(place("digits")) in names


# -- the reader's token -------------------------------------------------------------------------


def test_its_role_may_write_one_secret_and_read_none(made: Made) -> None:
    role = made.get("Role", TOKEN)
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["patch"]}
    ]
    binding = made.get("RoleBinding", TOKEN)
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": TOKEN, "namespace": "serving"}
    ]
    assert not [one for one in made.objects if one["kind"].startswith("ClusterRole")]


def test_it_is_the_reader_in_aws_and_never_the_node(made: Made) -> None:
    account = made.get("ServiceAccount", TOKEN)
    assert account["metadata"]["annotations"] == {ROLE: ECR["reader"]}
    for pod in made.pods():
        assert pod["serviceAccountName"] == TOKEN
        (container,) = pod["containers"]
        env = {one["name"]: one["value"] for one in container["env"]}
        assert env["AWS_EC2_METADATA_DISABLED"] == "true"
        assert env["AWS_DEFAULT_REGION"] == "eu-central-1"
        url = "https://kubernetes.default.svc/api/v1/namespaces/serving/secrets/" + SECRET
        assert container["command"][2:] == [
            "eu-central-1",
            url,
            "/var/run/secrets/kubernetes.io/serviceaccount",
        ]
        code = made.get("ConfigMap", TOKEN)["data"]["ecr_token.py"]
        compile(code, "ecr_token.py", "exec")
        assert container["command"][1] == "/model-registry/code/ecr_token.py"


def test_it_runs_at_once_and_three_times_while_a_token_is_good(made: Made) -> None:
    spec = made.get("CronJob", TOKEN)["spec"]
    assert spec["schedule"] == SCHEDULE and SCHEDULE.split()[1] == "*/4"
    assert spec["concurrencyPolicy"] == "Forbid"
    regular, first = made.pods()
    assert regular == first


def test_pulumi_has_no_value_of_the_secret(made: Made) -> None:
    secret = made.get("Secret", SECRET)
    assert "data" not in secret and "stringData" not in secret


def test_it_reaches_the_api_and_aws(made: Made) -> None:
    flows = {(flow.source.name, flow.target): flow.ports for flow in made.component.flows}
    assert flows == {(TOKEN, API_SERVER): [443], (TOKEN, OUTSIDE): [443]}


def test_somebody_looks_at_its_age(made: Made) -> None:
    (rule,) = [one for one in made.objects if one["kind"] == "PrometheusRule"]
    names = [one["alert"] for one in rule["spec"]["groups"][0]["rules"]]
    assert names == ["ModelRegistryTokenOld", "ModelRegistryTokenUnknown"]


# -- who takes it -------------------------------------------------------------------------------


def test_what_its_users_get(made: Made) -> None:
    repository = made.component.repository
    assert repository.read_address == f"https://{HOST}"
    assert repository.reader_secret == SECRET and list(repository.secrets) == ["reader"]
    assert (repository.pods, repository.authority) == (None, None)
    flow = repository.read_by(ASKS)
    assert (flow.target, flow.ports) == (OUTSIDE, [443])
    assert made.get("ConfigMap", "model-trust")["data"] == {"signing.pub": PUBLIC * 2}


def test_public_authorities_verify_it(made: Made) -> None:
    repository = made.component.repository
    settings = registry_settings(repository.read_address, public=True)
    assert settings.ca is None
    checks = serving_checks(
        models=MODELS, registry=repository, gateway="", open_gateway="", deaf_gateway=""
    )
    (answers,) = [one for one in checks if one.id == "serving.answers"]
    assert answers.args["registry"] == f"https://{HOST}"
    assert answers.args["registry_ca"] is None


def test_the_check_breaks_the_token_alone(made: Made) -> None:
    (check,) = made.component.checks
    assert check.args["repository"] == "models/anomaly"
    assert (check.fault.target.kind, check.fault.target.name) == ("Secret", SECRET)
    assert list(check.fault.patch["data"]) == ["password"]


def test_the_probe_tells_a_reader_from_one_who_may_write_and_from_nobody() -> None:
    server = MemoryRegistry()
    answer, good = server.answer, "Basic " + base64.b64encode(b"AWS:good").decode()
    context: Any = SimpleNamespace(secret=lambda ref: ref["key"].encode())
    opened = False

    def guarded(
        method: str, path: str, said: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if said != good or (method == "POST" and not opened):
            return 403, {}, b'{"errors": [{"code": "DENIED", "message": "not you"}]}'
        return answer(method, path, said, body)

    def ask(password: str) -> str:
        user = {"username": {"key": "AWS"}, "password": {"key": password}}
        return token(context, url=server.url, user=user, repository="models/digits")

    server.answer = guarded  # type: ignore[method-assign]
    try:
        assert ask("good") == "reads models/digits; an upload is refused with 403"
        with pytest.raises(AssertionError, match="403 DENIED"):
            ask("spoiled")
        opened = True
        with pytest.raises(AssertionError, match="the reader has stored 32 bytes"):
            ask("good")
    finally:
        server.close()


def deployed(tmp_path: Path, *, rehearsed: bool) -> Made:
    for name in ("digits", "anomaly"):
        (tmp_path / name).mkdir()
    environment = Environment.model_validate({"model_repository": ECR_VALUES})

    def program() -> Any:
        platform: Any = SimpleNamespace(
            namespaces={"serving": "serving"}, pki=pulumi.ComponentResource("test:Pki", "pki")
        )
        context = Context(
            environment=environment,
            images=Images({"estate_admin": image("admin")}),
            stack="aws",
            config=pulumi.Config("estate"),
            sources=SecretSources(None),
            models=tmp_path,
            rehearsed=rehearsed,
        )
        found = model_repository.deploy(context, platform, None, None, None)
        assert found is not None and context.checks and not context.links
        return found

    return Made(program)


def test_the_stack_makes_one_for_each_model_folder_in_the_declared_account(tmp_path: Path) -> None:
    made = deployed(tmp_path, rehearsed=False)
    names = {one["name"] for one in made.all("ecr/repository:Repository").values()}
    assert names == {"models/anomaly", "models/digits"}
    (provider,) = [body for typ, _, body in made.resources if typ == "pulumi:providers:aws"]
    assert provider["region"] == "eu-central-1"
    assert json.loads(provider["allowedAccountIds"]) == ["123456789012"]


def test_a_rehearsal_of_it_needs_no_aws(tmp_path: Path) -> None:
    made = deployed(tmp_path, rehearsed=True)
    assert not made.aws()
    assert not [typ for typ, _, _ in made.resources if typ == "pulumi:providers:aws"]
    assert made.get("CronJob", TOKEN)


def test_who_has_no_ecr_does_not_load_the_package_of_aws() -> None:
    program = "import stacks.estate, sys; sys.exit('pulumi_aws' in sys.modules)"
    root = Path(__file__).parents[4]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
