"""`./estate up` brings a rehearsal up or repairs it; `preview` says what it would change."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from configs import versions
from configs.errors import ConfigError
from configs.schema import Environment, immutable_keys, load, secret_refs
from rehearsal import (
    addons,
    applied,
    commands,
    console,
    credentials,
    doctor,
    drift,
    images,
    inside,
    models,
    paths,
    tools,
    verify,
)
from rehearsal.errors import EstateError, UsageError
from rehearsal.kube import Api, ApiError
from rehearsal.parts import PROFILES
from rehearsal.progress import ImageBars, ToolBars
from rehearsal.pulumi import Pulumi, State
from rehearsal.rehearsal import CORE, LOCAL, Mode, Rehearsal

# What a rehearsal without a real node was measured to use, with some room; with one: parts.toml.
_SIMULATED_GIB = 2


def up(name: str, profiles: Sequence[str], all_: bool, port_base: int | None, offline: bool) -> int:
    """Bring a rehearsal up, or repair it; returns the exit code."""
    began = time.monotonic()
    unknown = sorted(set(profiles) - set(PROFILES))
    if unknown:
        raise UsageError("--profile", unknown[0], f"choose from: {', '.join(PROFILES)}")
    if port_base is not None and not 1024 <= port_base <= 65_000:
        raise UsageError("--port-base", port_base, "choose a number from 1024 to 65000")
    rehearsal = Rehearsal(name)
    with rehearsal.locked(), ExitStack() as early:
        rehearsal.is_of(LOCAL)
        probes = early.enter_context(_probes(rehearsal))
        declared = _environment()
        had = rehearsal.record.profiles if rehearsal.record is not None else [CORE]
        wanted = list(dict.fromkeys([*had, *(PROFILES if all_ else profiles)]))
        environment = declared.with_profiles(wanted)
        mode, reason = _mode(rehearsal)
        # All that can be refused is refused before anything is made.
        rehearsal.first_port(port_base)
        rehearsal.keeps(immutable_keys(environment))
        if not rehearsal.exists or set(wanted) - set(had):
            _enough_room(mode, [name for name in wanted if not rehearsal.exists or name not in had])
        if mode == "simulated":
            console.warn(
                f"no real node here, all nodes are simulated: {reason}. The API, scheduling, "
                "quotas, admission and claims are real; no container runs, so no protocol answers"
            )
        found = find_tools(mode, offline, wanted)
        rehearsal.prepare(mode, reason, port_base)
        rehearsal.add_profiles(wanted)
        rehearsal.link_tools(found)
        credentials.ensure(
            rehearsal.folder / "secrets",
            sorted({ref.file for _, ref in secret_refs(environment) if ref.file}),
        )
        code = 0
        links = _nothing_to_do(rehearsal, environment, probes)
        early.close()
        if links is None:
            _cluster(rehearsal, found)
            console.step("pulumi up")
            serves = _serves(rehearsal, environment)
            if serves:
                models.look(rehearsal)
            rehearsal.deployed(immutable_keys(environment))
            applied.forget(rehearsal)
            given = applied.digest(rehearsal, environment)
            state = _pulumi_up(rehearsal)
            links = state.outputs.get("links") or {}
            rehearsal.open_pages(_targets(links))  # usable while the checks wait
            if serves and models.bring(rehearsal):
                console.step("pulumi up: the models that the registry has now")
                given = applied.digest(rehearsal, environment)
                state = _pulumi_up(rehearsal)
                links = state.outputs.get("links") or {}
            applied.note(rehearsal, given, state)
            console.step("checks")
            code = verify.settled(rehearsal, state)
        commands.where_to_click(rehearsal, rehearsal.open_pages(_targets(links)))
    console.say(f"up in {time.monotonic() - began:.0f} s" + ("" if code == 0 else ", not green"))
    return code


@contextmanager
def _probes(rehearsal: Rehearsal) -> Iterator[inside.Probes | None]:
    """What asks the checks if nothing is to do: it starts while that is found out."""
    last = applied.last(rehearsal) if rehearsal.exists else None
    if last is None or rehearsal.required().mode == "simulated" or not rehearsal.box().alive:
        yield None
        return
    with inside.probes(rehearsal, last.checks) as probes:
        yield probes


def _nothing_to_do(
    rehearsal: Rehearsal, environment: Environment, probes: inside.Probes | None
) -> dict[str, str] | None:
    """The pages' links, when the same was applied last, nobody changed it and all is green."""
    last = applied.unchanged(rehearsal, environment)
    node = rehearsal.required().mode == "node"
    if last is None or (node and probes is None) or not all(rehearsal.processes().values()):
        return None
    console.step("unchanged since the last `up`: program, configuration, images, secrets; checks")
    try:
        green = verify.still_green(rehearsal, last.checks, last.declared(rehearsal), probes)
    except (ApiError, EstateError):
        return None  # the long way says what is wrong, or repairs it
    return last.links if green else None


def _environment() -> Environment:
    """The configuration of the stack, with everything in it that can be refused by looking."""
    file = paths.root() / "configs" / f"Pulumi.{LOCAL}.yaml"
    with config_errors():
        environment = load(file)
        recipes = images.recipes().images
        versions.agree({key: (one.repository, one.tag) for key, one in recipes.items()})
        if environment.images.source != "rehearsal":
            raise ConfigError(
                f"configs/{file.name}: images.source: {environment.images.source!r} is not allowed "
                "here: a rehearsal runs the images that it built; write rehearsal"
            )
    return environment


def _mode(rehearsal: Rehearsal) -> tuple[Mode, str]:
    """Its mode and why: what it was made with, else what this machine allows."""
    if rehearsal.record is not None:
        return rehearsal.record.mode, rehearsal.record.reason
    possible, reason = doctor.containers_possible()
    return "node" if possible else "simulated", reason


@contextmanager
def config_errors() -> Iterator[None]:
    """Turn a ConfigError into one line for the user."""
    try:
        yield
    except ConfigError as error:
        first, *more = error.lines
        rest = f" (and {len(more)} more: {' | '.join(more)})" if more else ""
        raise EstateError("configuration", first + rest, "mend the file and run again") from None


def _enough_room(mode: Mode, profiles: Sequence[str]) -> None:
    """Refuse to begin what the machine cannot hold, by the budgets of the new profiles."""
    new = [PROFILES[name] for name in profiles]
    simulated = mode == "simulated"
    needed = _SIMULATED_GIB if simulated else sum(one.memory_gib for one in new)
    memory = doctor.memory()[0] / 2**30
    if memory < needed:
        raise EstateError(
            "memory",
            f"{memory:.1f} GiB available",
            f"the {' and '.join(profiles)} needs {needed} GiB: end other programs or use a larger "
            "machine",
        )
    needed = _SIMULATED_GIB if simulated else sum(one.disk_gib for one in new)
    for what, folder in (("cache", paths.cache()), ("state", paths.state_root())):
        paths.ensure(folder, what)
        free = shutil.disk_usage(folder).free / 2**30
        if free < needed:
            raise EstateError(
                f"disk of {folder}",
                f"{free:.1f} GiB free",
                f"{needed} GiB are needed: free some, or set ESTATE_{what.upper()}",
            )


def find_tools(mode: str, offline: bool, profiles: Collection[str] = (CORE,)) -> dict[str, Path]:
    """The tools that a rehearsal of this mode and these profiles needs, built where they lack."""
    groups = {"cli", "control-plane"} | ({"node"} if mode == "node" else set())
    catalogue = tools.catalogue()
    names = [tool.name for tool in catalogue.values() if tool.group in groups]
    if mode == "node":
        recipes = images.recipes()
        names += sorted(recipes.tools(recipes.of_profiles(profiles)) - set(names))
    found = {name: path for name in names if (path := tools.find(catalogue[name])) is not None}
    lacking = [name for name in names if name not in found]
    if lacking and offline:
        raise EstateError(
            f"tool {lacking[0]}", "not in the cache", "run once without --offline to build it"
        )
    if not lacking:
        return found
    console.step(f"building {len(lacking)} tools from Go modules (once; later runs find them)")
    with ToolBars() as bars:
        return tools.ensure(names, bars)


def _cluster(rehearsal: Rehearsal, found: dict[str, Path]) -> None:
    """Control plane, node, images and simulated nodes, side by side where they can be."""
    if rehearsal.required().mode == "simulated":
        console.step("control plane (Kubernetes API, scheduler, controllers)")
        _image_lock_of_names(rehearsal)
        rehearsal.start_control_plane(found)
        rehearsal.apply(found, f"{addons.simulated()}\n---\n{addons.fleet(take_all=True)}")
        return
    rehearsal.unpack_debian()
    with ThreadPoolExecutor(1) as pool, ImageBars() as bars:
        keys = images.recipes().of_profiles(rehearsal.required().profiles)
        building = pool.submit(
            images.build, keys, tools=found, cache=paths.cache() / "images", progress=bars
        )
        console.step("control plane and node")
        rehearsal.start_control_plane(found)
        built = building.result()
    shutil.copyfile(
        images.Builder(paths.cache() / "images").lock_file, rehearsal.folder / "images.json"
    )
    node = rehearsal.node(found, built["pause"].named.names[1])
    node.start_runtime()
    console.step("images into the node")
    images.import_into(node.ctr(), built)
    rehearsal.start_node(found, built)


def _image_lock_of_names(rehearsal: Rehearsal) -> None:
    """Without containers no image is built: the lock names them with digests of their names."""
    lock = json.dumps(versions.placeholders(), indent=1)
    paths.replace(rehearsal.folder / "images.json", lock)


def _pulumi_up(rehearsal: Rehearsal) -> State:
    """`pulumi up`, a second time with a refresh where something was changed by hand.

    Pulumi trusts its state unless it is told to refresh, which costs more than this look.
    """
    pulumi = Pulumi(rehearsal)
    pulumi.select()

    def look() -> tuple[State, list[drift.Drift]]:
        state = pulumi.state()
        return state, drift.find(Api(rehearsal.kubeconfig), drift.declared(state.resources))

    try:
        with ThreadPoolExecutor(1) as pool:
            # Beside the start of the program. It holds when there was nothing to find or to do.
            early = pool.submit(look)
            good = pulumi.up(refresh=False)
            state, found = early.result()
        if found or not pulumi.unchanged():
            state, found = look()
        elif good:
            state = pulumi.state()  # outputs are no resources: what is in them may be new
        if found:
            console.step(f"putting back what was changed by hand: {len(found)} objects")
            for one in found:
                drift.take_away(Api(rehearsal.kubeconfig), one)
            good = pulumi.up(refresh=True)
            state = pulumi.state()
        for one in found if good else ():
            console.warn(f"put back: {one.where}: {one.what}")
    except ApiError as error:
        raise EstateError("Kubernetes API", str(error)[:200], "run up again") from None
    if not good:
        if dead := rehearsal.stopped():
            raise EstateError(f"process {dead[0]}", "has ended meanwhile", "run up again")
        raise EstateError("pulumi up", "failed, as shown above", "mend it and run up again")
    return state


def _serves(rehearsal: Rehearsal, environment: Environment) -> bool:
    """Whether it has a registry whose models it serves: containers that run, and the profile."""
    return rehearsal.required().mode == "node" and environment.serving is not None


def _targets(links: Mapping[str, str]) -> dict[str, str]:
    """Host and port of URLs inside the cluster, for the gateway."""
    parts = {name: urlsplit(url) for name, url in links.items()}
    return {name: f"{part.hostname}:{part.port or 443}" for name, part in parts.items()}


def preview(name: str, args: Sequence[str]) -> int:
    """Show what `up` would change."""
    rehearsal = Rehearsal(name)
    rehearsal.required()
    rehearsal.is_of(LOCAL)
    environment = _environment().with_profiles(rehearsal.required().profiles)
    rehearsal.keeps(immutable_keys(environment))
    if stopped := rehearsal.stopped():
        raise EstateError(f"process {stopped[0]}", "is stopped", f"run: {rehearsal.up_command}")
    if _serves(rehearsal, environment):
        models.look(rehearsal)
    return Pulumi(rehearsal).preview(args)
