"""Where things lie: the repository, the cache shared by all rehearsals, a rehearsal's own state.

Standard library only, because the launcher uses it before any package is installed.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from rehearsal.errors import EstateError, UsageError

NAME_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,15}")
_PLAIN = re.compile(r"[\w./@+=~-]+")
REHEARSE = "rehearse-"
"""Before the name of an environment: the rehearsal that `rehearse` makes of it."""


def root() -> Path:
    """Return the repository root: the folder that holds `estate`."""
    return Path(__file__).resolve().parent.parent


def cache() -> Path:
    """Return the folder of what can be made again: tools, images, packages, the environment.

    `ESTATE_CACHE`, else `$XDG_CACHE_HOME/estate`, else `~/.cache/estate`. It is not created here.
    """
    own = os.environ.get("ESTATE_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    return _xdg("XDG_CACHE_HOME", ".cache") / "estate"


def state(name: str) -> Path:
    """Return the folder of the rehearsal `name`: all that it keeps lies here, `down` removes it.

    It lies in `ESTATE_STATE`, else `$XDG_STATE_HOME/estate`, else `~/.local/state/estate`.
    """
    return state_root() / check_name(name)


def state_root() -> Path:
    """Return the folder with one folder per rehearsal."""
    own = os.environ.get("ESTATE_STATE")
    if own:
        folder = Path(own).expanduser().absolute()
    else:
        folder = _xdg("XDG_STATE_HOME", ".local/state") / "estate"
    if not _PLAIN.fullmatch(str(folder)):
        # kwokctl cuts a path at a blank, and Pulumi's is part of a URL.
        way_out = "set ESTATE_STATE to a folder whose path has only letters, digits and ./@+=~_-"
        raise UsageError("state folder", repr(str(folder)), way_out)
    return folder


def data() -> Path:
    """Return the folder of what is to outlive rehearsals: backups. `down` leaves it alone.

    `ESTATE_DATA`, else `$XDG_DATA_HOME/estate`, else `~/.local/share/estate`. Not created here.
    """
    own = os.environ.get("ESTATE_DATA")
    if own:
        return Path(own).expanduser().absolute()
    return _xdg("XDG_DATA_HOME", ".local/share") / "estate"


def check_name(name: str, option: str = "--name") -> str:
    """Return `name`, the value of `option`, if a rehearsal may be called so.

    It becomes part of host names, folders and the paths of Unix sockets (108 bytes at most), hence
    the few characters and the short length.
    """
    if not NAME_PATTERN.fullmatch(name.removeprefix(REHEARSE)):
        raise UsageError(
            option,
            repr(name),
            "use 1 to 16 of a-z, 0-9 and '-', starting with a letter, such as 'local'",
        )
    return name


def ensure(folder: Path, what: str = "folder", elsewhere: str | None = None) -> Path:
    """Create `folder` with its parents and return it.

    Raises:
        EstateError: it can't be made or written, with what moves it elsewhere: the variables of
            cache and state, or `elsewhere`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(what, folder, error, elsewhere) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        denied = PermissionError(errno.EACCES, "no write right")
        raise _unwritable(what, folder, denied, elsewhere)
    return folder


def replace(path: Path, text: str, *, mode: int = 0o666, durable: bool = False) -> None:
    """Write a file whole: who reads it, also after a kill, finds the old text or the new one.

    With `durable`, also after a loss of power.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(partial, path)


def _unwritable(what: str, folder: Path, error: OSError, elsewhere: str | None) -> EstateError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        other = elsewhere or "set ESTATE_CACHE to a folder on another disk"
        way_out = f"free some disk space there, or {other}"
    else:
        way_out = (
            elsewhere or "set ESTATE_CACHE and ESTATE_STATE (or HOME) to folders that you may write"
        )
    return EstateError(what, f"{folder}: {error.strerror or error}", way_out)


def _xdg(variable: str, below_home: str) -> Path:
    """Return an XDG base folder; a relative value counts as unset, as the specification says."""
    value = os.environ.get(variable, "")
    if value and os.path.isabs(value):
        return Path(value)
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        raise EstateError(
            "HOME", "not set, and this user has no home", f"set HOME or {variable} to a folder"
        )
    return Path(home) / below_home
