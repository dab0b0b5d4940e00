"""What `./estate tools` does: list, build, path, lock, prune."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rehearsal import console, locks, paths, tools
from rehearsal.errors import EstateError, UsageError
from rehearsal.progress import ToolBars


def run(action: str, args: Sequence[str]) -> int:
    """Run one action; UsageError names what there is instead of an unknown one."""
    actions: dict[str, Callable[[Sequence[str]], int]] = {
        "list": _list,
        "build": _build,
        "path": _path,
        "lock": _lock,
        "prune": _prune,
    }
    if action not in actions:
        raise UsageError("tools", f"no action {action!r}", f"choose from: {', '.join(actions)}")
    return actions[action](args)


def _known(name: str) -> tools.Tool:
    known = tools.catalogue()
    if name not in known:
        raise UsageError("tools", f"no tool {name!r}", f"choose from: {', '.join(known)}")
    return known[name]


def _no_more(action: str, args: Sequence[str]) -> None:
    if args:
        raise UsageError(f"tools {action}", f"unexpected {args[0]!r}", "leave it out")


def _list(args: Sequence[str]) -> int:
    _no_more("list", args)
    rows = []
    for tool in tools.catalogue().values():
        if (found := tools.on_path(tool)) is not None:
            where = f"PATH: {found}"
        else:
            where = "cache" if tools.built(tool).exists() else "to build"
        rows.append((tool.name, tool.version, tool.group, where))
    console.table("Tools", ("tool", "version", "group", "found"), rows)
    return 0


def _build(args: Sequence[str]) -> int:
    names = [_known(name).name for name in dict.fromkeys(args)] or list(tools.catalogue())
    with ToolBars() as bars:
        tools.ensure(names, bars)
    count = "1 tool is" if len(names) == 1 else f"{len(names)} tools are"
    console.say(f"{count} there; see: ./estate tools list")
    return 0


def _path(args: Sequence[str]) -> int:
    if len(args) != 1:
        raise UsageError(
            "tools path", f"{len(args)} names", "give one: ./estate tools path kubectl"
        )
    tool = _known(args[0])
    if (found := tools.find(tool)) is None:
        raise EstateError(
            f"tool {tool.name}", "not built yet", f"run: ./estate tools build {tool.name}"
        )
    print(found)
    return 0


def _lock(args: Sequence[str]) -> int:
    if unknown := [arg for arg in args if arg != "--upgrade"]:
        raise UsageError("tools lock", unknown[0], "the only option is --upgrade")
    for file, changed in locks.make(upgrade="--upgrade" in args):
        name = file.relative_to(paths.root())
        console.say(f"{name}: {'written anew' if changed else 'unchanged'}")
    return 0


def _prune(args: Sequence[str]) -> int:
    _no_more("prune", args)
    freed = tools.prune()
    console.say(f"{freed / 1e9:.1f} GB freed; the built tools stay")
    return 0
