"""Debian packages without touching the host: a private apt root in the cache.

The host's configuration is read for two things only: which mirrors serve this release, and which
keys sign them. State, cache, preferences and the list of installed packages (none) are private,
so a resolve gives the same closure on every machine of the release. apt itself verifies the
signatures of the indices and the checksum of every package. No maintainer script ever runs.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import digest_of, locked, read_json, sha256_of, write_json
from rehearsal.images.sources import release_sources

DAY_S = 24 * 3600
"""How long, in seconds, a resolve is taken as current."""

SCRIPT_ONLY = (
    "adduser", "debconf", "debconf-*", "cdebconf", "lsb-base", "sysvinit-utils", "init-system-*",
    "ucf", "sensible-utils", "perl", "perl-*", "libperl5*", "libgdbm*", "systemd*", "passwd",
    "libpam-modules*", "libpam-runtime", "login", "dpkg", "mawk", "gawk", "original-awk",
    "daemon", "logrotate", "cron", "policykit-1", "dbus", "dbus-*", "usrmerge", "usr-is-merged",
)  # fmt: skip
"""Packages that only maintainer scripts and service managers need; no script runs here."""


@dataclass(frozen=True, order=True)
class Package:
    """A package of the release, as the signed index describes it."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    """Size of the .deb, in bytes."""
    source: str
    depends: tuple[tuple[str, ...], ...] = field(default=(), compare=False)
    """Pre-Depends and Depends: a conjunction of alternatives, names only."""
    provides: tuple[str, ...] = field(default=(), compare=False)

    @property
    def upstream(self) -> str:
        """The upstream part of the version: no epoch, no Debian revision, no repack mark."""
        bare = self.version.split(":", 1)[-1].rsplit("-", 1)[0]
        return re.split(r"[+~]", bare, maxsplit=1)[0]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Package:
        """The inverse of ``dataclasses.asdict`` after a trip through JSON."""
        return cls(
            **{
                **value,
                "depends": tuple(tuple(group) for group in value["depends"]),
                "provides": tuple(value["provides"]),
            }
        )


def _names(relation: str) -> tuple[str, ...]:
    """Names in ``a (>= 1) | b:any``."""
    return tuple(re.split(r"[\s:(\[]", part.strip(), maxsplit=1)[0] for part in relation.split("|"))


def _relations(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(_names(part) for part in text.split(",") if part.strip())


def parse_stanza(text: str) -> Package:
    """Read one stanza of ``apt-cache show``."""
    fields = {
        key: value.strip()
        for key, value in re.findall(r"^([A-Za-z0-9-]+):((?:.*)(?:\n[ \t].*)*)", text, re.MULTILINE)
    }
    depends = ",".join(filter(None, (fields.get("Pre-Depends"), fields.get("Depends"))))
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        sha256=fields["SHA256"],
        size=int(fields["Size"]),
        source=fields.get("Source", fields["Package"]).split(" ")[0],
        depends=_relations(depends),
        provides=tuple(names[0] for names in _relations(fields.get("Provides", ""))),
    )


def closure(
    wanted: Iterable[str], resolved: Iterable[Package], without: Sequence[str] = ()
) -> list[Package]:
    """The part of ``resolved`` that ``wanted`` reaches by dependencies, sorted by name.

    :param wanted: package names; a version after ``=`` is ignored here.
    :param without: globs of names that are neither taken nor followed.
    :raises ImageError: a wanted package is not among the resolved ones.
    """
    by_name = {package.name: package for package in resolved}
    providers: dict[str, list[str]] = {}
    for package in by_name.values():
        for virtual in package.provides:
            providers.setdefault(virtual, []).append(package.name)
    taken: dict[str, Package] = {}
    queue = [name.partition("=")[0] for name in wanted]
    for name in queue:
        if name not in by_name:
            raise ImageError(
                f"package {name!r} is not in the resolved set",
                "Correct the recipe, or resolve anew (force a refresh)",
            )
    asked = set(queue)
    while queue:
        name = queue.pop()
        if name in taken:
            continue
        if name not in asked and any(fnmatch.fnmatchcase(name, glob) for glob in without):
            continue
        taken[name] = by_name[name]
        for alternatives in by_name[name].depends:
            for choice in alternatives:
                found = [choice] if choice in by_name else sorted(providers.get(choice, ()))
                if found:
                    queue.extend(found)
                    break
    return sorted(taken.values())


class Apt:
    """A private apt root.

    :param root: folder of the cache that belongs to this class; made when missing.
    :param codename: the Debian release to take from; the host's own when not given.
    """

    def __init__(self, root: Path, *, codename: str | None = None) -> None:
        self.root = root.resolve()
        self.codename = codename
        self.notes: list[str] = []
        """What a caller should tell the person, such as that an old resolve is in use."""
        self._refreshed = False

    # --- the root -------------------------------------------------------------------------

    def _prepare(self) -> dict[str, str]:
        """Make the root and its configuration; returns apt's environment."""
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise ImageError(
                "this machine has no apt-get or no dpkg-deb",
                "Images are built on Debian and its derivatives: run there, or pull images",
            )
        for folder in ("lists/partial", "archives/partial", "empty", "sources.d", "debs"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        status = self.root / "status"
        status.touch()
        sources = release_sources(self.codename)
        listing = self.root / "sources.d" / "release.sources"
        if not listing.exists() or listing.read_text(encoding="utf-8") != sources:
            listing.write_text(sources, encoding="utf-8")
        # How to reach a mirror (proxies, certificates) is the host's business; hooks are not,
        # some of them delete files of the host's own cache.
        dump = subprocess.run(
            ["apt-config", "dump"], capture_output=True, text=True, check=False
        ).stdout
        transport = [
            line
            for line in dump.splitlines()
            if re.match(r"Acquire::(http|https|Retries)\b", line, re.IGNORECASE)
        ]
        settings = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": self.root / "empty",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self.root / "sources.d",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": self.root / "empty",
            "Dir::State": self.root,
            "Dir::State::lists": self.root / "lists",
            "Dir::State::status": status,
            "Dir::State::extended_states": self.root / "extended_states",
            "Dir::Cache": self.root,
            "Dir::Cache::archives": self.root / "archives",
            "Dir::Log": self.root,
            # The sandbox user cannot enter a cache that belongs to a person.
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "APT::Get::AllowUnauthenticated": "false",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::Log::Planner": "",
            "Dir::Log::Solver": "",
        }
        configuration = self.root / "apt.conf"
        configuration.write_text(
            "\n".join([*transport, *(f'{key} "{value}";' for key, value in settings.items()), ""]),
            encoding="utf-8",
        )
        return {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C.UTF-8"}

    def _run(self, *argv: str, cwd: Path | None = None) -> str:
        """Run a tool of apt in the private root; its standard output."""
        result = subprocess.run(
            argv, cwd=cwd, env=self._prepare(), capture_output=True, text=True, check=False
        )
        if result.returncode:
            said = (result.stderr or result.stdout).strip().splitlines()
            problem = next((line for line in said if line.startswith("E:")), said[-1:] or "")
            raise ImageError(
                f"`{' '.join(argv[:3])} ...` failed ({result.returncode}): {problem}",
                f"Check the mirrors of {self.root / 'sources.d'} and the packages' names",
            )
        return result.stdout

    # --- resolving ------------------------------------------------------------------------

    @property
    def _lock_file(self) -> Path:
        return self.root / "lock.json"

    def _refresh(self, force: bool) -> dict[str, Any]:
        """The lock; its index is brought up to date when it is older than a day."""
        lock = read_json(self._lock_file) or {"refreshed": 0, "requests": {}}
        # Once a run: a dead network is waited for once, and a forced refresh is one refresh.
        if self._refreshed or (not force and time.time() - lock["refreshed"] < DAY_S):
            return dict(lock)
        self._refreshed = True
        try:
            self._run("apt-get", "update", "--error-on=any", "-q")
        except ImageError as error:
            if not lock["requests"] and not any((self.root / "lists").glob("*_InRelease")):
                raise
            if lock["refreshed"]:
                age = f"of {time.strftime('%Y-%m-%d %H:%M', time.gmtime(lock['refreshed']))} UTC"
            else:
                age = "that is there"
            self.notes.append(
                f"Debian's index could not be refreshed ({error.problem}): using the resolve {age}"
            )
            return dict(lock)
        lock = {"refreshed": int(time.time()), "requests": {}}
        write_json(self._lock_file, lock)
        return lock

    def resolve(self, packages: Sequence[str], *, force: bool = False) -> list[Package]:
        """The full dependency closure of ``packages`` on an empty system, without Recommends.

        Asked of apt at most once a day for the same packages; the answer is kept in the lock.
        Without a network the last answer is used, and a note in :attr:`notes` says so.

        :param packages: names, each optionally with a version or a glob of one: ``name=1.2-*``.
        :raises ImageError: unknown package, unreachable mirror with nothing kept.
        """
        wanted = sorted(packages)
        if not wanted:
            return []
        request = digest_of(wanted)
        with locked(self.root / ".apt.lock"):
            lock = self._refresh(force)
            known = lock["requests"].get(request)
            if known is None:
                simulated = self._run("apt-get", "install", "-s", "-q", *wanted)
                chosen = re.findall(r"^Inst (\S+) \((\S+) ", simulated, re.MULTILINE)
                shown = self._run(
                    "apt-cache", "show", *(f"{name}={version}" for name, version in chosen)
                )
                found = {
                    (package.name, package.version): package
                    for package in map(parse_stanza, filter(str.strip, shown.split("\n\n")))
                }
                known = [asdict(found[name.partition(":")[0], version]) for name, version in chosen]
                lock["requests"][request] = known
                write_json(self._lock_file, lock)
        return [Package.from_json(value) for value in known]

    # --- fetching -------------------------------------------------------------------------

    def deb(self, package: Package) -> Path:
        """Where the .deb of a package lies (or will lie) in the cache."""
        return self.root / "debs" / f"{package.sha256}.deb"

    def fetch_resolved(self, packages: Sequence[Package]) -> list[Path]:
        """Download exactly these packages, verified; what the cache has is not fetched again.

        :raises ImageError: a package is gone from the mirror, or its content does not match.
        """
        missing = [package for package in packages if not self.deb(package).exists()]
        if missing:
            with locked(self.root / ".apt.lock"):
                missing = [package for package in missing if not self.deb(package).exists()]
                self._download(missing)
        return [self.deb(package) for package in packages]

    def _download(self, packages: Sequence[Package]) -> None:
        if not packages:
            return
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            self._run(
                "apt-get", "download", "-q",
                *(f"{package.name}={package.version}" for package in packages),
                cwd=Path(folder),
            )  # fmt: skip
            by_content = {sha256_of(path): path for path in Path(folder).glob("*.deb")}
            for package in packages:
                if package.sha256 not in by_content:
                    raise ImageError(
                        f"{package.name} {package.version} does not have the SHA-256 of the lock "
                        f"({package.sha256})",
                        "The mirror changed it: resolve anew (force a refresh)",
                    )
                by_content[package.sha256].replace(self.deb(package))

    def fetch(self, packages: Sequence[str], into: Path) -> list[Path]:
        """Download the closure of ``packages`` as .deb files into a folder, named by package."""
        into.mkdir(parents=True, exist_ok=True)
        resolved = self.resolve(packages)
        result = []
        for package, source in zip(resolved, self.fetch_resolved(resolved), strict=True):
            target = into / f"{package.name}_{package.architecture}.deb"
            shutil.copyfile(source, target)
            result.append(target)
        return result

    def unpack(
        self, packages: Sequence[str], destination: Path, *, without: Sequence[str] = SCRIPT_ONLY
    ) -> list[Package]:
        """Unpack the closure of ``packages`` below ``destination``; what was unpacked."""
        chosen = closure(packages, self.resolve(packages), without)
        destination.mkdir(parents=True, exist_ok=True)
        for link in ("bin", "sbin", "lib", "lib64"):
            (destination / "usr" / link).mkdir(parents=True, exist_ok=True)
            if not (destination / link).is_symlink():
                (destination / link).symlink_to(f"usr/{link}")
        for path in self.fetch_resolved(chosen):
            # tar, and not dpkg-deb -x: that one replaces the links of a merged /usr by folders.
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=-1) as deb:
                subprocess.run(
                    ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", destination],
                    stdin=deb.stdout, check=True,
                )  # fmt: skip
            if deb.returncode:
                raise ImageError(
                    f"{path} cannot be unpacked (dpkg-deb: {deb.returncode})",
                    "Delete that file and run again",
                )
        return chosen
