"""What all layers share: configuration, images, secrets, the provider, and what they declare.

This is the only place of the program that reads files and the environment.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml
from pydantic import TypeAdapter, ValidationError

from components.checks import Check, ExpectedPods
from components.dashboards import Dashboard
from components.flows import Flow
from components.model import Images, SecretRef
from components.platform.config import PkiConfig
from components.platform.release import Object
from components.workload import Component
from configs import problems, versions
from configs.errors import ConfigError
from configs.schema import ClusterConfig, Environment, load, secret_refs
from model_repo import declared
from model_repo.declared import Desired, Place, Served
from model_repo.oci import OciError
from model_repo.version import Digest
from stacks.secret_sources import SECRETS_VARIABLE, SecretSources

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = ROOT / "components" / "manifests"
REHEARSE_VARIABLE = "ESTATE_REHEARSE"
"""Set by `estate rehearse`: no secret is asked for, and the cluster is KUBECONFIG's."""
PLACEHOLDERS_VARIABLE = "ESTATE_PLACEHOLDERS"
"""Set to 1 by whoever previews without access to the secrets; see ADR 17."""
PKI_KEY = "pki"
"""In a rehearsal's own settings: values over those of `pki:`, left by the drill `authority`."""
IMAGES_VARIABLE = "ESTATE_IMAGES"
MODELS_VARIABLE = "ESTATE_MODELS"
"""A rehearsal's file: model -> version -> digest, as its registry has them."""
PROFILES_VARIABLE = "ESTATE_PROFILES"
"""Set by a rehearsal to the profiles that `up` was given; where it is unset, all parts come."""


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: `=` is a string, not YAML 1.1's value tag."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:value"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def manifest(name: str) -> list[Object]:
    """The objects of a vendored release manifest, `cert-manager-1.11.5` for one.

    Raises ConfigError when that release was never vendored.
    """
    try:
        text = (MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"configs/versions.toml: no release manifest {name}.yaml; add it with "
            "`python -m components.manifests.vendor`, or go back to a tag that has one"
        ) from None
    return [body for body in yaml.load_all(text, Loader=_Loader) if body]


def kubernetes(cluster: ClusterConfig, kubeconfig: pulumi.Input[str] | None = None) -> k8s.Provider:
    """The Kubernetes provider: server-side apply, mutable ConfigMaps and Secrets.

    Without a kubeconfig it takes KUBECONFIG's.
    """
    return k8s.Provider(
        "kubernetes",
        k8s.ProviderArgs(
            kubeconfig=kubeconfig,
            context=cluster.context,
            enable_server_side_apply=True,
            # Names are exact, so a replacement would delete first what pods still mount.
            enable_config_map_mutable=True,
            enable_secret_mutable=True,
            # A stack must be destroyable when its cluster is gone already.
            delete_unreachable=True,
            kube_client_settings=k8s.KubeClientSettingsArgs(
                qps=cluster.client_qps, burst=cluster.client_burst
            ),
        ),
    )


@dataclass
class Context:
    """The environment of one stack, resolved, and what its layers have declared so far."""

    environment: Environment
    images: Images
    stack: str
    config: pulumi.Config
    sources: SecretSources
    rehearsed: bool = False
    placeholders: bool = False
    models: Path = declared.FOLDER
    model_digests: Path | None = None
    """The file of MODELS_VARIABLE."""
    checks: list[Check] = field(default_factory=list)
    expected_pods: list[ExpectedPods] = field(default_factory=list)
    flows: list[Flow] = field(default_factory=list)
    dashboards: list[Dashboard] = field(default_factory=list)
    links: dict[str, pulumi.Output[str]] = field(default_factory=dict)
    """What a person opens, by name; the rehearsal's gateway leads a loopback port to each."""
    _secrets: dict[str, pulumi.Output[str]] = field(default_factory=dict)

    def secret(self, ref: SecretRef) -> pulumi.Output[str]:
        """The value behind a reference as a secret output; each is resolved once.

        A placeholder in a rehearsal, and with PLACEHOLDERS_VARIABLE in a preview for what cannot be
        read. Raises ConfigError when it cannot be read otherwise.
        """
        if ref.source not in self._secrets:
            self._secrets[ref.source] = self._resolve(ref)
        return self._secrets[ref.source]

    def declare(self, component: Component) -> None:
        """Take over the checks, expected pods, flows and dashboards of a component."""
        self.checks += component.checks
        self.expected_pods += component.expected_pods
        self.flows += component.flows
        self.dashboards += component.dashboards

    def desired_models(self) -> list[Desired]:
        """What this environment is to serve; `stack` is its name in a model's file.

        A rehearsal's versions are made where it runs: one that is not in its registry yet is left
        out, with a warning. Raises ConfigError when a file is wrong, or a digest is not known.
        """
        try:
            models = declared.models(self.models)
        except OciError as error:
            raise ConfigError(f"{error}; mend the file") from None
        return [
            Desired(
                name=name,
                version=served.version,
                digest=digest,
                serving=model.serving,
                rollout=model.rollout,
            )
            for name, model in models.items()
            if (served := model.environments.get(self.stack)) is not None
            and (digest := self._model_digest(name, served)) is not None
        ]

    @functools.cached_property
    def provider(self) -> k8s.Provider:
        """The provider of this environment's cluster."""
        cluster = ClusterConfig() if self.rehearsed else self.environment.cluster
        # No placeholder: Pulumi would take it for another cluster, to make all anew.
        given = self._read(cluster.kubeconfig) if cluster.kubeconfig else None
        return kubernetes(cluster, given)

    def _model_digest(self, name: str, served: Served) -> str | None:
        place = Place("environments", self.stack)
        made_here = self.environment.images.source == "rehearsal"
        found = self._digests_made_here.get(name, {}).get(served.version) if made_here else None
        if None not in (found, served.digest) and found != served.digest:
            raise ConfigError(
                f"{name}/{declared.FILE}: {place}: version {served.version} is {served.digest}, "
                f"the rehearsal's registry has {found}; take the digest out, or add that version"
            )
        digest = served.digest or found
        if digest is None and made_here and name in self._digests_made_here:
            # Left out, what is served would go.
            raise ConfigError(
                f"{name}/{declared.FILE}: {place}: version {served.version} is not in the "
                f"rehearsal's registry as it was last looked into ({MODELS_VARIABLE}); "
                "./estate preview or up looks again; where it lacks: ./estate model add FOLDER "
                f"--version {served.version}, or go back to one that is there"
            )
        if digest is None and made_here:
            pulumi.log.warn(
                f"{name} version {served.version} is not in the rehearsal's registry, so it is not "
                "served yet: `up` brings reference models, `./estate model add` any other"
            )
            return None
        if digest is None:
            raise ConfigError(
                f"{name}/{declared.FILE}: {place}: version {served.version} has no digest; "
                f"./estate model promote {name} {served.version} --environment {self.stack} "
                "writes it"
            )
        return digest

    @functools.cached_property
    def _digests_made_here(self) -> dict[str, dict[int, str]]:
        # Before its registry was asked for the first time there is none.
        if self.model_digests is None or not self.model_digests.exists():
            return {}
        try:
            return _DIGESTS.validate_json(self.model_digests.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{MODELS_VARIABLE}: {self.model_digests}: {error.strerror}; run: ./estate up"
            ) from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"{MODELS_VARIABLE}: {self.model_digests}: {where}: {first['msg']}; run: ./estate "
                "up, which writes it anew"
            ) from None

    def _resolve(self, ref: SecretRef) -> pulumi.Output[str]:
        if self.rehearsed:
            return _placeholder(ref)
        try:
            return self._read(ref)
        except ConfigError as error:
            if not self.placeholders:
                raise
            if not pulumi.runtime.is_dry_run():
                raise ConfigError(
                    [*error.lines, f"{PLACEHOLDERS_VARIABLE} is for previews; unset it"]
                ) from None
            pulumi.log.warn(
                f"{ref.source}: a placeholder in this preview, so all that is made of it shows as "
                f"changed: {error}"
            )
            return _placeholder(ref)

    def _read(self, ref: SecretRef) -> pulumi.Output[str]:
        if ref.pulumi is None:
            return pulumi.Output.secret(self.sources.read(ref))
        value = self.config.get_secret(ref.pulumi)
        if value is None:
            raise ConfigError(
                f"Pulumi.{self.stack}.yaml: estate:{ref.pulumi}: missing; "
                f"pulumi config set --secret {ref.pulumi}"
            )
        if not pulumi.runtime.is_config_secret(f"estate:{ref.pulumi}"):
            raise ConfigError(
                f"Pulumi.{self.stack}.yaml: estate:{ref.pulumi}: in clear, where a secret refers "
                f"to it; pulumi config set --secret {ref.pulumi}"
            )
        return value


_DIGESTS: TypeAdapter[dict[str, dict[int, str]]] = TypeAdapter(dict[str, dict[int, Digest]])


def _placeholder(ref: SecretRef) -> pulumi.Output[str]:
    return pulumi.Output.secret(f"placeholder for {ref.source}")


def missing_secret_files(environment: Environment, folder: Path) -> list[str]:
    """Files of secrets that the environment names and the folder lacks, relative to it."""
    files = {ref.file for _, ref in secret_refs(environment) if ref.file is not None}
    return sorted(name for name in files if not (folder / name).is_file())


def from_pulumi() -> Context:
    """The context of the running Pulumi program. Raises ConfigError."""
    config = pulumi.Config("estate")
    stack = pulumi.get_stack()
    values = config.get_object("environment")
    origin = f"configs/Pulumi.{stack}.yaml"
    if values is None:
        # A rehearsal gives Pulumi a settings file of its own, with nothing but its salt.
        environment = load(ROOT / origin, name=origin)
    elif isinstance(values, Mapping):
        environment = load(dict(values), name=origin)
    else:
        raise ConfigError(
            f"{origin}: estate:environment: {problems.shown(values, hidden=True)} is not allowed: "
            "a mapping is required"
        )
    if chosen := os.environ.get(PROFILES_VARIABLE):
        environment = environment.with_profiles(chosen.split(","))
    if rotated := config.get_object(PKI_KEY):
        pki = PkiConfig.model_validate({**environment.pki.model_dump(), **rotated})
        environment = environment.model_copy(update={"pki": pki})
    rehearsed = os.environ.get(REHEARSE_VARIABLE) == "1"
    return Context(
        environment=environment,
        images=_images(environment, rehearsed=rehearsed),
        stack=stack,
        config=config,
        sources=SecretSources(_path(os.environ.get(SECRETS_VARIABLE))),
        rehearsed=rehearsed,
        placeholders=os.environ.get(PLACEHOLDERS_VARIABLE) == "1",
        model_digests=_path(os.environ.get(MODELS_VARIABLE)),
    )


def json_list(items: Iterable[Check | ExpectedPods]) -> list[dict[str, Any]]:
    """Plain JSON for a stack output."""
    return [item.json_object() for item in items]


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _images(environment: Environment, *, rehearsed: bool) -> Images:
    config = environment.images
    if config.source == "upstream":
        pulled = versions.pulled(config.registry, config.digests)
        # Nothing is pulled in a rehearsal; what lacks a digest is among the words at its end.
        return Images({**pulled.images, **pulled.unpinned}) if rehearsed else pulled.images
    lock = os.environ.get(IMAGES_VARIABLE)
    if not lock:
        raise ConfigError(
            f"{IMAGES_VARIABLE}: empty, but images.source is rehearsal; "
            "source <(./estate env), or export the path of images.json"
        )
    return versions.rehearsal(Path(lock))
