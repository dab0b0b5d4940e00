"""Runs one Pulumi program in a process of its own, for the language host.

Needs only the Pulumi SDK of the interpreter it runs under. Takes the arguments of the official
`pulumi-language-python-exec`; the stack's configuration comes by environment (`PULUMI_CONFIG`,
`PULUMI_CONFIG_SECRET_KEYS`), for it can hold secrets and an argument list is public.

Exit codes: 0; 32 when the error has been shown to the user; else the program's own `sys.exit`.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import gc
import logging
import os
import runpy
import signal
import sys
import traceback
import types
import warnings

SHOWN = 32  # agreed with the official host: "the user has seen the reason, say no more"


def _is_machinery(filename: str, hidden: tuple[str, ...]) -> bool:
    return filename.startswith("<frozen ") or os.path.abspath(filename).startswith(hidden)


def user_traceback(error: BaseException, hidden: tuple[str, ...]) -> str:
    """`error`'s traceback with the frames of files below the paths `hidden` left out.

    Causes, contexts and exception groups are treated alike. Where no frame would be left (an error
    that the SDK found by itself, later) the message stands alone.
    """
    shown = traceback.TracebackException.from_exception(error)
    todo, seen = [shown], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        kept = [frame for frame in one.stack if not _is_machinery(frame.filename, hidden)]
        one.stack = traceback.StackSummary.from_list(kept)
        todo += [other for other in (one.__cause__, one.__context__) if other]
        todo += getattr(one, "exceptions", None) or []  # groups exist since Python 3.11
    header = "Traceback (most recent call last):\n"
    text = "".join(shown.format())
    return text if shown.stack else text.removeprefix(header)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run a Pulumi program", allow_abbrev=False)
    for name in ("monitor", "engine", "project", "stack", "root_directory", "pwd", "organization"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--dry_run", default="false")
    parser.add_argument("--debug", default="false")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--tracing", help="accepted and not used")
    parser.add_argument("program", metavar="PROGRAM")
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER)
    return parser.parse_args(argv)


def _without_debug_lines() -> None:
    """Leave out what the SDK would say of its own work, when nobody asked for it.

    Each line is a call to the engine that the event loop waits for, three for every resource: a
    fifth of the CPU of an `up`. What the program itself says by `pulumi.log.debug` is still sent.
    """

    def nothing(*_: object, **__: object) -> None:
        return None

    for name in ("resource", "rpc", "rpc_manager", "stack"):
        module = sys.modules[f"pulumi.runtime.{name}"]
        quiet = types.SimpleNamespace(**{**vars(module.log), "debug": nothing})
        setattr(module, "log", quiet)  # noqa: B010  (a module has no such attribute for mypy)


def main(argv: list[str]) -> int:
    """Run the program that `argv` names; returns the exit code."""
    args = _arguments(argv)
    try:
        import pulumi
        import pulumi.runtime
    except ImportError as error:
        print(
            f"The Pulumi SDK cannot be imported by {sys.executable} ({error}): install `pulumi` "
            "there, or name another interpreter (Pulumi.yaml runtime.options.virtualenv, or "
            "PULUMI_PYTHON_CMD)",
            file=sys.stderr,
        )
        return 1
    runtime = pulumi.runtime
    if args.debug != "true":
        _without_debug_lines()
    runtime.set_all_config(runtime.get_config_env(), runtime.get_config_secret_keys_env())
    for name in ("PULUMI_CONFIG", "PULUMI_CONFIG_SECRET_KEYS"):
        os.environ.pop(name, None)  # read: what the program starts need not inherit its secrets
    runtime.configure(
        runtime.Settings(
            project=args.project,
            stack=args.stack,
            monitor=args.monitor,
            engine=args.engine,
            parallel=args.parallel,
            dry_run=args.dry_run == "true",
            organization=args.organization,
            root_directory=args.root_directory,
        )
    )
    program = os.path.abspath(args.program)
    folder = program if os.path.isdir(program) else os.path.dirname(program)
    # The program's folder first, as Python does it; then the project's, so that a program in a
    # folder of its own (`main: stacks`) imports its siblings. This file's own folder goes.
    first = dict.fromkeys([folder, args.root_directory or folder])
    sys.path[:1] = first
    sys.argv = [program, *args.arguments]
    if args.pwd:
        os.chdir(args.pwd)
    if os.path.isdir(program) and not os.path.isfile(os.path.join(program, "__main__.py")):
        pulumi.log.error(f"no `__main__.py` in {program}: check `main` in Pulumi.yaml")
        return SHOWN

    # The SDK leaves futures behind when a deployment fails; asyncio would report each of them.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # What a program builds lives until its end: looking for garbage among it is a quarter of its
    # time, and cycles that do become garbage are few.
    gc.set_threshold(200_000, 20, 100)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    # Every pending registration holds a thread: fewer than these and a program can lock itself up.
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=max(args.parallel, 1) * 4)
    loop.set_default_executor(pool)

    def run() -> None:
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            # `sys.exit(0)` must not cut off registrations that are still under way: the engine
            # would take their resources for deleted.
            if end.code not in (None, 0):
                warnings.simplefilter("ignore", RuntimeWarning)  # ... for the others, given up
                raise

    try:
        loop.run_until_complete(runtime.run_in_stack(run))
    except pulumi.RunError as error:
        # The engine ends the monitor when the deployment has failed, which it reports itself.
        if "Resource monitor has terminated" not in str(error):
            pulumi.log.error(str(error))
        return SHOWN
    except Exception as error:  # whatever the program raises is shown
        packages = (pulumi, asyncio, concurrent.futures)
        hidden = [os.path.dirname(str(package.__file__)) + os.sep for package in packages]
        hidden += [os.path.abspath(__file__), os.path.abspath(runpy.__file__)]
        pulumi.log.debug("".join(traceback.format_exception(error)))
        trimmed = user_traceback(error, tuple(hidden))
        pulumi.log.error(f"Program failed with an unhandled exception:\n{trimmed}")
        return SHOWN
    finally:
        pool.shutdown(wait=True)
        loop.close()
    return 0


if __name__ == "__main__":
    # The state of a deployment lives in the engine: an interrupted program has nothing to unwind.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
