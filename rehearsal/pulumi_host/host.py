"""The language host: serves Pulumi's LanguageRuntime service for Python programs.

The engine starts it with its own address as last argument, reads the port from the first line of
standard output, then calls. Programs and plugins run as child processes in the host's process
group, which the engine interrupts and kills as a whole. Code generation (`pulumi convert`, `pulumi
package add`) is the official host's alone and answered with UNIMPLEMENTED.
"""
# ruff: noqa: D102  (the methods of the service are documented by Pulumi's language.proto)

from __future__ import annotations

import functools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import IO, Any, TypeVar, cast

import grpc
from google.protobuf import empty_pb2, json_format
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

from rehearsal.pulumi_host import launch
from rehearsal.pulumi_host.executor import SHOWN
from rehearsal.pulumi_host.launch import HostError

_GRACE_S = 3.0  # the engine kills the group 5 s after its interrupt: be gone before that
_POLL_S = 0.5  # how soon the engine's death is noticed

Answer = TypeVar("Answer")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End `process`: asked first, killed after the grace time. A process that is gone is fine."""
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:  # it has just ended
        return []


def _interpreter(info: Any) -> tuple[str, dict[str, str]]:
    # `pulumi about` outside a project sends no root.
    options = json_format.MessageToDict(info.options)
    return launch.interpreter(Path(info.root_directory or "."), options)


def _explained(handler: Callable[[Any, Any, Any], Answer]) -> Callable[[Any, Any, Any], Answer]:
    """Turn a HostError of a call into the status that the engine prints as one line."""

    @functools.wraps(handler)
    def call(self: Any, request: Any, context: Any) -> Answer:
        try:
            return handler(self, request, context)
        except HostError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            raise  # not reached: abort raises

    return call


def _not_here(context: Any, what: str) -> None:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"{what} is done by the official pulumi-language-python alone: use Pulumi's release for it",
    )


def _can_be_had(name: str) -> bool:
    """Whether the engine has a provider's plugin, or may fetch it.

    A package may be installed that no program uses (ADR 35); to be told of its plugin, which is not
    there and must not be fetched, some of the engine's commands take for an error.
    """
    never = os.environ.get("PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION", "")
    if never.lower() not in ("1", "true"):
        return True
    home = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    found = shutil.which(f"pulumi-resource-{name}")
    return found is not None or any(home.glob(f"plugins/resource-{name}-v*"))


class Host(language_pb2_grpc.LanguageRuntimeServicer):
    """The service. Methods are named by Pulumi's language.proto, messages are untyped there."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._programs: set[subprocess.Popen[bytes]] = set()
        self._plugins: set[subprocess.Popen[bytes]] = set()
        self._cancelled = False
        self._inventories: dict[str, dict[str, Any]] = {}

    # -- what is installed -------------------------------------------------------------------------

    def _inventory(self, info: Any) -> dict[str, Any]:
        python, environment = _interpreter(info)
        if python not in self._inventories:
            command = [python, str(Path(__file__).with_name("inventory.py"))]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise HostError(f"{python} cannot list its packages: {done.stderr.strip()}")
            self._inventories[python] = json.loads(done.stdout)
        return self._inventories[python]

    def _required(self, info: Any) -> list[tuple[dict[str, str], dict[str, str] | None]]:
        """Fields of each plugin that the installed packages need, and its parameterization."""
        found = [item["plugin"] for item in self._inventory(info)["distributions"]]
        return [
            (one["plugin"], one["parameterization"])
            for one in found
            if one and _can_be_had(one["plugin"]["name"])
        ]

    def Handshake(self, request: Any, context: Any) -> Any:
        self._engine = request.engine_address or self._engine
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=metadata.version("pulumi"))

    @_explained
    def About(self, request: Any, context: Any) -> Any:
        if _interpreter(request.info)[0] == sys.executable:  # asked on every `up`: no child for it
            found = {"executable": sys.executable, "version": sys.version.split()[0]}
        else:
            found = self._inventory(request.info)
        return language_pb2.AboutResponse(executable=found["executable"], version=found["version"])

    @_explained
    def GetProgramDependencies(self, request: Any, context: Any) -> Any:
        response = language_pb2.GetProgramDependenciesResponse()
        for item in self._inventory(request.info)["distributions"]:
            if request.transitiveDependencies or item["direct"]:
                response.dependencies.add(name=item["name"], version=item["version"])
        return response

    @_explained
    def GetRequiredPlugins(self, request: Any, context: Any) -> Any:
        response = language_pb2.GetRequiredPluginsResponse()
        for plugin, _ in self._required(request.info):
            response.plugins.add(kind="resource", **cast(Any, plugin))
        return response

    @_explained
    def GetRequiredPackages(self, request: Any, context: Any) -> Any:
        response = language_pb2.GetRequiredPackagesResponse()
        for plugin, parameters in self._required(request.info):
            package = response.packages.add(kind="resource", **cast(Any, plugin))
            if parameters:
                json_format.ParseDict(parameters, package.parameterization)
        return response

    # -- what `pulumi new`, `install` and `package add` ask ----------------------------------------

    def RuntimeOptionsPrompts(self, request: Any, context: Any) -> Any:
        return language_pb2.RuntimeOptionsResponse()

    def Template(self, request: Any, context: Any) -> Any:
        return language_pb2.TemplateResponse()

    @_explained
    def InstallDependencies(self, request: Any, context: Any) -> Iterator[Any]:
        found = self._inventory(request.info)
        python = found["executable"]
        if not any(item["name"] == "pulumi" for item in found["distributions"]):
            raise HostError(f"{python} has no `pulumi`: run `{python} -m pip install pulumi`")
        text = (
            f"This language host installs nothing; programs run under {python}.\n"
            f"If a package is missing there: {python} -m pip install -r requirements.txt\n"
        )
        return iter([language_pb2.InstallDependenciesResponse(stdout=text.encode())])

    def Link(self, request: Any, context: Any) -> Any:
        paths = " ".join(item.path for item in request.packages)
        return language_pb2.LinkResponse(import_instructions=f"Run: python -m pip install {paths}")

    def GenerateProgram(self, request: Any, context: Any) -> Any:
        _not_here(context, "generating a program")

    def GenerateProject(self, request: Any, context: Any) -> Any:
        _not_here(context, "generating a project")

    def GeneratePackage(self, request: Any, context: Any) -> Any:
        _not_here(context, "generating a package")

    def Pack(self, request: Any, context: Any) -> Any:
        _not_here(context, "packing")

    # -- what runs ---------------------------------------------------------------------------------

    @staticmethod
    def _start(python: str, arguments: list[str], **how: Any) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen([python, *arguments], stdin=subprocess.DEVNULL, **how)
        except OSError as error:
            raise HostError(f"cannot run {python}: {error}") from error

    def _run_to_end(self, process: subprocess.Popen[bytes], context: Any) -> int:
        """The exit code of `process`, which is ended when the engine gives the call up."""
        self._programs.add(process)
        context.add_callback(process.terminate)
        if self._cancelled:
            process.terminate()
        try:
            return process.wait()
        finally:
            self._programs.discard(process)

    def Run(self, request: Any, context: Any) -> Any:
        try:
            code = self._run(request, context)
        except HostError as error:
            return language_pb2.RunResponse(error=str(error))
        if code in (0, SHOWN) or self._cancelled:
            return language_pb2.RunResponse(bail=code != 0)
        if code < 0:
            name = signal.Signals(-code).name
            return language_pb2.RunResponse(error=f"program was ended by the signal {name}")
        return language_pb2.RunResponse(error=f"program exited with non-zero exit code: {code}")

    def _run(self, request: Any, context: Any) -> int:
        if request.attach_debugger:
            raise HostError("--attach-debugger is served by the official host alone: leave it out")
        info = request.info
        python, environment = _interpreter(info)
        checker = json_format.MessageToDict(info.options).get("typechecker")
        if checker:
            checked = self._start(
                python, ["-m", str(checker), info.program_directory], env=environment
            )
            if self._run_to_end(checked, context):
                raise HostError(f"runtime option typechecker: {checker} failed, see above")
        environment |= launch.program_configuration(request)
        debug = launch.debug_wanted(_command_line(os.getppid()))
        arguments = launch.program_arguments(self._engine, request, debug=debug)
        return self._run_to_end(self._start(python, arguments, env=environment), context)

    @_explained
    def RunPlugin(self, request: Any, context: Any) -> Iterator[Any]:
        python, environment = _interpreter(request.info)
        chosen = {name: environment.get(name) for name in ("PATH", "VIRTUAL_ENV")}
        environment |= dict(entry.split("=", 1) for entry in request.env)
        # The engine's environment is its own: the virtual environment stays in force.
        environment |= {name: value for name, value in chosen.items() if value}
        folder = Path(request.info.program_directory)
        arguments = launch.plugin_arguments(request.kind, folder, list(request.args))
        process = self._start(
            python,
            arguments,
            cwd=request.pwd or folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._plugins.add(process)
        context.add_callback(process.terminate)
        return self._relay(process)

    def _relay(self, process: subprocess.Popen[bytes]) -> Iterator[Any]:
        """Both streams of `process` as they come, then its exit code."""
        messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def pump(pipe: IO[bytes], wrap: Callable[[bytes], Any]) -> None:
            while data := os.read(pipe.fileno(), 65536):
                messages.put(wrap(data))
            messages.put(None)

        response = language_pb2.RunPluginResponse
        pumps = (
            (process.stdout, lambda data: response(stdout=data)),
            (process.stderr, lambda data: response(stderr=data)),
        )
        try:
            for arguments in pumps:
                threading.Thread(target=pump, args=arguments, daemon=True).start()
            for _ in pumps:
                while (message := messages.get()) is not None:
                    yield message
            yield response(exitcode=process.wait())
        finally:
            _end(process)
            self._plugins.discard(process)

    def Cancel(self, request: Any, context: Any) -> Any:
        """End the programs. Plugins stay: the engine ends each when it needs it no more."""
        self._cancelled = True
        for process in list(self._programs):
            process.terminate()
        return empty_pb2.Empty()

    def end(self) -> None:
        """End everything that was started; where the group is ours, also what those started."""
        self._cancelled = True
        if os.getpgrp() == os.getpid():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.killpg(0, signal.SIGTERM)
        for process in list(self._programs | self._plugins):
            _end(process)


def main(argv: list[str]) -> None:
    """Serve until a signal comes or the engine is gone. Ends the process."""
    engine_process = os.getppid()
    stop = threading.Event()

    def quietly(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, quietly)
    sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    # Policy packs and providers hold a thread each for as long as they run.
    server = grpc.server(ThreadPoolExecutor(max_workers=64), options=sizes)
    host = Host(launch.engine_address(argv))
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    while not stop.wait(_POLL_S):
        if os.getppid() != engine_process:
            break
    host.end()
    server.stop(grace=0.2).wait()
    # Not the interpreter's own end: it would wait for the service's threads.
    os._exit(0)
