"""One rehearsal: its folder, its mode, its parts, and the order they come up and go down in."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml

from rehearsal import addons, paths, ports, pulumi_host, sandbox, tools
from rehearsal.control_plane import ControlPlane
from rehearsal.errors import EstateError
from rehearsal.gateway import Gateway, Route
from rehearsal.images import Apt, BuiltImage, unpack_tools
from rehearsal.kube import Api, ApiError
from rehearsal.node import Node
from rehearsal.processes import Daemon, wait_for

Mode = Literal["node", "simulated"]
LOCAL = "local"
"""The stack of `up`; `rehearse` has one of the environment's name."""
CORE = "core"
"""The profile that every rehearsal has."""
POLICY_PACK_VARIABLE = "PULUMI_OPTION_POLICY_PACK"
_DEBIAN = ("runc", "iproute2", "nftables", "haproxy", "catatonit")
_API_INSIDE = 6443


@dataclass
class Record:
    """What is written down about a rehearsal (rehearsal.json in its folder)."""

    name: str
    mode: Mode
    reason: str
    port_base: int
    stack: str = LOCAL
    routes: dict[str, str] = field(default_factory=dict)
    profiles: list[str] = field(default_factory=lambda: [CORE])


_PROGRAMS = {
    f"ESTATE_{name}"
    for name in (
        *(
            "IMAGES",
            "MODELS",
            "PLACEHOLDERS",
            "PROFILES",
            "REHEARSAL",
            "REHEARSE",
            "SCALE",
            "SECRETS",
        ),
        "SIMULATED",
    )
}


def _of_another(variable: str) -> bool:
    """Whether a variable says how Pulumi and the program work."""
    return variable.startswith("PULUMI_") or variable in _PROGRAMS


class Rehearsal:
    """A rehearsal by name; most methods want `record`, which `prepare` makes."""

    def __init__(self, name: str) -> None:
        self.name = paths.check_name(name)
        self.folder = paths.state(name)
        self._file = self.folder / "rehearsal.json"
        self.record = self._load()

    def _load(self) -> Record | None:
        try:
            return Record(**json.loads(self._file.read_text()))
        except (OSError, TypeError, ValueError):
            return None

    def _save(self) -> None:
        assert self.record is not None
        paths.replace(self._file, json.dumps(asdict(self.record), indent=1))

    @property
    def exists(self) -> bool:
        """Whether `up` made it and `down` has not removed it."""
        return self.record is not None

    @property
    def up_command(self) -> str:
        """What brings this rehearsal up, as a person types it."""
        if self.record is not None and self.record.stack != LOCAL:
            return f"./estate rehearse {self.record.stack} --keep"
        return f"./estate up{self._name_option}"

    @property
    def env_command(self) -> str:
        """What makes a shell use this rehearsal."""
        return f"source <(./estate env{self._name_option})"

    @property
    def _name_option(self) -> str:
        return "" if self.name == LOCAL else f" --name {self.name}"

    def required(self) -> Record:
        """The record; EstateError when there is no such rehearsal."""
        self._readable()
        if self.record is None:
            known = sorted(path.parent.name for path in paths.state_root().glob("*/rehearsal.json"))
            raise EstateError(
                f"rehearsal {self.name}",
                f"does not exist (there are: {', '.join(known) or 'none'})",
                f"run: {self.up_command}",
            )
        return self.record

    def _readable(self) -> None:
        """Raise EstateError where a record is, but says nothing: what it tells of may still run."""
        if self.record is None and self._file.exists():
            raise EstateError(
                f"rehearsal {self.name}",
                f"{self._file} cannot be read or is no record of a rehearsal",
                f"begin anew: ./estate down{self._name_option}",
            )

    def is_of(self, stack: str) -> None:
        """Refuse a command for another stack than this rehearsal's. Raises EstateError."""
        self._readable()
        if self.record is not None and self.record.stack != stack:
            raise EstateError(
                f"rehearsal {self.name}",
                f"is one of stack {self.record.stack}, not of {stack}",
                f"choose another name, or first: ./estate down --name {self.name}",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the rehearsal for one command that changes it; a second one is refused at once."""
        file = paths.ensure(paths.state_root(), "state") / f".{self.name}.lock"
        with file.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held it before may have removed the file, and somebody made it anew.
                if not file.exists() or not os.path.samestat(
                    file.stat(), os.fstat(handle.fileno())
                ):
                    raise BlockingIOError
            except BlockingIOError:
                raise EstateError(
                    f"rehearsal {self.name}",
                    "another estate command is changing it",
                    "wait until it ends, then run this one again",
                ) from None
            try:
                yield
            finally:
                if not self.folder.exists():
                    file.unlink(missing_ok=True)

    def keeps(self, immutable: Mapping[str, Any]) -> None:
        """Refuse a configuration that would replace what holds data.

        `immutable` has key paths and values (configs.schema.immutable_keys). Keys of parts that are
        new or gone are no change. Raises EstateError.
        """
        try:
            deployed = json.loads(self._immutable.read_text())
        except FileNotFoundError:
            return
        for key, value in immutable.items():
            if key in deployed and deployed[key] != value:
                raise EstateError(
                    f"configuration key {key}",
                    f"{value!r}, but what runs has {deployed[key]!r} and would lose its data",
                    f"put it back, or begin anew: ./estate down --name {self.name}",
                )

    def deployed(self, immutable: Mapping[str, Any]) -> None:
        """Note what `keeps` compares with."""
        paths.replace(self._immutable, json.dumps(dict(immutable), indent=1))

    @property
    def _immutable(self) -> Path:
        return self.folder / "immutable.json"

    # -- what it is made of --------------------------------------------------------------------

    @property
    def debian(self) -> Path:
        """The Debian packages of the node, unpacked in the cache."""
        return paths.cache() / "debian"

    def first_port(self, port_base: int | None) -> int:
        """The first of its ports: its own, else of some that are free. Raises EstateError."""
        if self.record is None:
            return ports.first(port_base, self.up_command)
        if port_base is not None and port_base != self.record.port_base:
            raise EstateError(
                f"--port-base {port_base}",
                f"rehearsal {self.name} has its ports from {self.record.port_base}",
                f"run ./estate down --name {self.name} first",
            )
        return self.record.port_base

    def prepare(self, mode: Mode, reason: str, port_base: int | None, stack: str = LOCAL) -> None:
        """Write the record of a new rehearsal, with ports that are free; keep an existing one."""
        self._readable()
        base = self.first_port(port_base)
        if self.record is not None:
            return
        paths.ensure(self.folder, "state")
        self.folder.chmod(0o700)
        self.record = Record(self.name, mode, reason, base, stack)
        self._save()

    def add_profiles(self, profiles: Iterable[str]) -> None:
        """Note the profiles beside those that it has: `up` brings them, `down` takes all away."""
        record = self.required()
        added = [name for name in dict.fromkeys(profiles) if name not in record.profiles]
        if added:
            record.profiles += added
            self._save()

    @property
    def api_port(self) -> int:
        """The loopback port of the Kubernetes API."""
        return self.required().port_base

    def box(self) -> sandbox.Sandbox | sandbox.Direct:
        """Where its processes run."""
        if self.required().mode == "node":
            return sandbox.Sandbox(self.name, self.folder, self.debian)
        return sandbox.Direct(self.name, self.folder)

    def control_plane(self, found: Mapping[str, Path]) -> ControlPlane:
        """Its control plane."""
        if self.required().mode == "node":
            return ControlPlane(self.box(), found, api_port=_API_INSIDE, ports=12379)
        return ControlPlane(self.box(), found, api_port=self.api_port, ports=self.api_port + 10)

    def logs(self) -> list[Path]:
        """The logs of its processes, those of the control plane last."""
        folders = (self.folder / "logs", self.control_plane({}).logs)
        return [file for folder in folders for file in sorted(folder.glob("*.log"))]

    def node(self, found: Mapping[str, Path], pause_image: str = "") -> Node:
        """Its real node."""
        box = self.box()
        assert isinstance(box, sandbox.Sandbox)
        pki = self.control_plane(found).pki
        return Node(box, found, self.debian, pki=pki, pause_image=pause_image)

    def gateway(self, name: str) -> Gateway:
        """A gateway process: `gateway` for the API, `pages` for what a person opens."""
        box = self.box()
        assert isinstance(box, sandbox.Sandbox)
        return Gateway(box, sandbox.tool(self.debian, "haproxy"), name)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig for the loopback port."""
        return self.folder / "kubeconfig"

    @property
    def stack_settings(self) -> Path:
        """The stack's own configuration file: the salt of this rehearsal's passphrase."""
        return self.folder / "pulumi" / "project" / f"Pulumi.{self.required().stack}.yaml"

    # -- up ------------------------------------------------------------------------------------

    def unpack_debian(self) -> None:
        """Have the node's Debian packages in the cache."""
        unpack_tools(_DEBIAN, self.debian, apt=Apt(paths.cache() / "images" / "apt"))

    def start_control_plane(self, found: Mapping[str, Path]) -> None:
        """Sandbox, control plane, gateway to the API, kubeconfig: each only where it lacks."""
        box = self.box()
        fresh = box.create()
        if fresh and self.required().mode == "node":
            # Process ids of an earlier sandbox mean nothing in a new one.
            for file in (self.folder / "kwok" / "clusters" / "estate" / "pids").glob("*.pid"):
                file.unlink()
        plane = self.control_plane(found)
        if plane.start():
            # A new cluster is empty, whatever a stack's state says (a `down` was cut short).
            shutil.rmtree(self.folder / "pulumi" / "state", ignore_errors=True)
            (self.folder / "pulumi" / "state").mkdir(parents=True)
            self.stack_settings.unlink(missing_ok=True)
        plane.kubeconfig(self.kubeconfig, f"https://127.0.0.1:{self.api_port}")
        if self.required().mode == "node":
            self.gateway("gateway").start(
                [Route("kubernetes-api", self.api_port, f"{sandbox.NODE_IP}:{_API_INSIDE}")]
            )
        self.wait_ready(self._api_answers, "Kubernetes API", 60)
        self.wait_ready(lambda: self._controllers_work(plane), "kube-controller-manager", 120)

    def _controllers_work(self, plane: ControlPlane) -> bool:
        """Whether every part runs and controllers have begun to work; dead ones are started again.

        kwokctl calls a cluster ready when its API answers. On a busy machine that takes longer
        than the controller manager waits for it: it has ended by then, or ends a little later.
        """
        if not all(plane.running().values()):
            plane.start()
            return False
        api = Api(self.kubeconfig)
        try:
            # A controller publishes it, as soon as controllers run.
            return api.get(api.path("v1", "ConfigMap", "default", "kube-root-ca.crt")) is not None
        except ApiError:
            return False

    def stopped(self) -> list[str]:
        """The names of its processes that have ended."""
        return [name for name, alive in self.processes().items() if not alive]

    def _api_answers(self) -> bool:
        """Whether the API lists something: it does not yet when an `up` was interrupted here."""
        try:
            Api(self.kubeconfig).items("v1", "Namespace", limit="1")
        except ApiError:
            return False
        return True

    def start_node(self, found: Mapping[str, Path], built: Mapping[str, BuiltImage]) -> None:
        """The real node with its images (containerd must have been started), and the fleet."""
        references = {key: image.named.names[1] for key, image in built.items()}
        node = self.node(found, references["pause"])
        node.policies.unpack()
        volumes = self.folder / "volumes"
        parts = (addons.manifests(references, volumes), node.policies.definitions(), addons.fleet())
        self.apply(found, "\n---\n".join(parts))
        node.start()

    def apply(self, found: Mapping[str, Path], manifests: str) -> None:
        """Server-side apply of a YAML stream, which `applied` gives back."""
        arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"]
        done = subprocess.run(
            [str(found["kubectl"]), *arguments],
            input=manifests,
            text=True,
            capture_output=True,
            check=False,
            env=self.environment(),
        )
        if done.returncode != 0:
            words = done.stderr.strip().splitlines() or ["no output"]
            raise EstateError("kubectl apply", words[-1][:300], f"see {self.folder / 'logs'}")
        paths.replace(self._applied, manifests)

    @property
    def _applied(self) -> Path:
        return self.folder / "addons.yaml"

    def applied(self) -> list[dict[str, Any]]:
        """What the cluster was given before anything is declared on it: DNS, storage, fleet."""
        try:
            text = self._applied.read_text()
        except FileNotFoundError:
            return []
        return [body for body in yaml.safe_load_all(text) if body]

    def wait_ready(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for a condition; EstateError names what did not become ready."""
        if not wait_for(ready, seconds, 0.3):
            raise EstateError(
                what, f"not ready after {seconds:.0f} s", f"see: ./estate logs --name {self.name}"
            )

    def open_pages(self, links: Mapping[str, str]) -> dict[str, int]:
        """Lead loopback ports to the pages a person opens; returns the port of each by name."""
        record = self.required()
        if record.mode != "node" or not links:
            return {}
        gateway = self.gateway("pages")
        if record.routes != dict(links):
            gateway.daemon.stop()
            record.routes = dict(links)
            self._save()
        pages = self.pages
        gateway.start([Route(name, pages[name], target) for name, target in sorted(links.items())])
        return pages

    @property
    def pages(self) -> dict[str, int]:
        """The loopback port of each page that was opened, by name."""
        record = self.required()
        return {name: record.port_base + 1 + at for at, name in enumerate(sorted(record.routes))}

    def processes(self) -> dict[str, bool]:
        """Whether each of its processes runs, by name."""
        found = _recorded_tools(self.folder)
        box = self.box()
        state = {"sandbox": box.alive} if self.required().mode == "node" else {}
        if not box.alive:
            return {**state, **dict.fromkeys(("control plane", "node"), False)}
        state |= self.control_plane(found).running()
        if self.required().mode == "node":
            state |= self.node(found).running()
            state["gateway"] = self.gateway("gateway").daemon.process() is not None
            if self.required().routes:
                state["pages"] = self.gateway("pages").daemon.process() is not None
        return state

    # -- environment ---------------------------------------------------------------------------

    def kubectl(self, *arguments: str, limit_s: float = 30) -> subprocess.CompletedProcess[str]:
        """One kubectl command and what it wrote. Raises subprocess.TimeoutExpired."""
        return subprocess.run(
            [str(self.folder / "bin" / "kubectl"), *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
        )

    def environment(self) -> dict[str, str]:
        """The process environment in which pulumi and kubectl work on this rehearsal.

        What a shell has of another one (`./estate env`), or of a Pulumi of the user's, is left out:
        it would turn secrets into placeholders, or leave checkpoints out.
        """
        kept = {key: value for key, value in os.environ.items() if not _of_another(key)}
        return {**kept, **self.variables()}

    def foreign(self) -> list[str]:
        """What `./estate env` takes out of a shell."""
        return sorted({key for key in os.environ if _of_another(key)} - set(self.variables()))

    def variables(self) -> dict[str, str]:
        """The variables that `./estate env` prints."""
        folder = self.folder
        record = self.required()
        simulated = {"ESTATE_SIMULATED": "1"} if record.mode == "simulated" else {}
        if record.stack != LOCAL:
            # Thrown away at its end: its state need not outlive a crash.
            simulated |= {"ESTATE_REHEARSE": "1", "PULUMI_SKIP_CHECKPOINTS": "true"}
            simulated |= {"PULUMI_EXPERIMENTAL": "1"}
        own = [str(folder / "bin"), str(Path(sys.executable).parent)]
        others = os.environ.get("PATH", "").split(os.pathsep)
        search = os.pathsep.join(own + [path for path in others if path and path not in own])
        return {
            "PATH": search,
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(folder / "kubectl-cache"),
            "PULUMI_HOME": str(folder / "pulumi" / "home"),
            # A file replaces the last one whole, but the metadata that go-cloud keeps beside it is
            # written in place: killed at that, Pulumi could read its state no more.
            "PULUMI_BACKEND_URL": f"file://{folder / 'pulumi' / 'state'}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(folder / "pulumi" / "passphrase"),
            # Pulumi takes any option from the environment by this name.
            "PULUMI_OPTION_CONFIG_FILE": str(self.stack_settings),
            # The outputs are for `verify` and long: a preview shows resources, `stack output` them.
            "PULUMI_OPTION_SUPPRESS_OUTPUTS": "true",
            # `preview` and `up` ask the policy pack, whoever calls them.
            POLICY_PACK_VARIABLE: str(paths.root() / "policies"),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_PYTHON_CMD": sys.executable,
            # A killed `up` or a hand leaves fields owned by others; the declaration wins here.
            "PULUMI_K8S_ENABLE_PATCH_FORCE": "true",
            "ESTATE_REHEARSAL": self.name,
            "ESTATE_IMAGES": str(folder / "images.json"),
            "ESTATE_MODELS": str(folder / "models.json"),
            "ESTATE_SECRETS": str(folder / "secrets"),
            **({"ESTATE_PROFILES": ",".join(record.profiles)} if record.stack == LOCAL else {}),
            **simulated,
        }

    def link_tools(self, found: Mapping[str, Path]) -> None:
        """Fill the rehearsal's bin folder, and Pulumi's plugin folder where ours are used."""
        used = {key: str(path) for key, path in found.items()}
        paths.replace(self.folder / "tools.json", json.dumps(used, indent=1))
        folder = self.folder / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        own = Path(sys.executable)
        _link(folder / "kubectl", found["kubectl"])
        if _official_host(found["pulumi"]):
            _link(folder / "pulumi", found["pulumi"])
        else:
            # The engine looks for the language host beside its real file, so a link won't do.
            _hard_link(folder / "pulumi", found["pulumi"])
            pulumi_host.install(folder, own)
            version = tools.catalogue()["pulumi-resource-kubernetes"].version
            plugin = self.folder / "pulumi" / "home" / "plugins" / f"resource-kubernetes-v{version}"
            plugin.mkdir(parents=True, exist_ok=True)
            _link(plugin / "pulumi-resource-kubernetes", found["pulumi-resource-kubernetes"])
        (self.folder / "pulumi" / "state").mkdir(parents=True, exist_ok=True)
        # Where its logs folder can't be made, Pulumi 3.250 leaves out the debug log that it else
        # writes of every command: two fifths of the CPU of an `up` without changes.
        logs = self.folder / "pulumi" / "home" / "logs"
        logs.parent.mkdir(parents=True, exist_ok=True)
        if logs.is_dir():
            shutil.rmtree(logs)
        logs.touch()
        passphrase = self.folder / "pulumi" / "passphrase"
        if not passphrase.exists():
            paths.replace(passphrase, secrets.token_urlsafe(32), mode=0o600)

    # -- down ----------------------------------------------------------------------------------

    def destroy(self) -> None:
        """End and remove everything of this rehearsal; works at any stage of its life."""
        # A pulumi that outlived a killed `up` is one of them: what it still writes is going anyway.
        self.end_strays("bin", "pulumi")
        record = self.record
        if record is None:
            # Unreadable, so of either kind: without a sandbox the control plane is ended by itself.
            self.end_strays("kwok")
        if record is not None and record.mode == "simulated":
            # Nothing else was made, and what has this name elsewhere is another user's.
            self._end_simulated()
            return
        box = sandbox.Sandbox(self.name, self.folder, self.debian)
        box.destroy()
        for pid_file in sorted((self.folder / "pids").glob("*.json")):
            Daemon(self.folder, pid_file.stem).stop()
        node = Node(box, {}, self.debian, pki=self.folder, pause_image="")
        node.remove_cgroups()
        self._remove_folder()

    def end_strays(self, *folders: str) -> None:
        """End what was left running: programs that were started from these of its folders."""
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if command and any(Path(command[0]).is_relative_to(self.folder / f) for f in folders):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def _end_simulated(self) -> None:
        if (self.folder / "tools.json").exists():  # before it there is no process
            plane = self.control_plane(_recorded_tools(self.folder))
            plane.stop()
            if left := [name for name, runs in plane.running().items() if runs]:
                raise EstateError(f"process {left[0]}", "does not end", "run ./estate down again")
        self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            left = next(iter(self.folder.rglob("*")), self.folder)
            raise EstateError(f"folder {self.folder}", f"not removed: {left}", "remove it by hand")


def _recorded_tools(folder: Path) -> dict[str, Path]:
    """The tools that the last `up` used, as it wrote them down in the folder."""
    found = json.loads((folder / "tools.json").read_text())
    return {name: Path(path) for name, path in found.items()}


def _link(link: Path, target: Path) -> None:
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.symlink_to(target)
    os.replace(partial, link)


def _hard_link(link: Path, target: Path) -> None:
    if link.exists() and link.stat().st_size == target.stat().st_size:
        return
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        os.link(target, partial)
    except OSError:
        shutil.copy2(target, partial)
    os.replace(partial, link)


def _official_host(pulumi: Path) -> bool:
    """Whether the Pulumi in use came with its own Python language host."""
    beside = pulumi.resolve().parent / "pulumi-language-python"
    return beside.exists()
