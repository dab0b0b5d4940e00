"""Entries of a layer from Debian packages, without running their scripts."""

from __future__ import annotations

import fnmatch
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rehearsal.images.apt import Package
from rehearsal.images.errors import ImageError
from rehearsal.images.layer import Entry, normal, with_usr_merged

DROPPED = (
    "usr/share/doc/*", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*",
    "usr/share/lintian/*", "usr/share/bug/*", "usr/share/doc-base/*", "usr/share/bash-completion/*",
    "usr/share/zsh/*", "usr/share/fish/*", "usr/share/menu/*", "usr/share/pixmaps/*",
    "usr/share/applications/*", "usr/share/icons/*", "usr/share/gcc/*", "usr/share/gdb/*",
    "usr/share/initramfs-tools/*", "usr/lib/systemd/*", "usr/lib/tmpfiles.d/*",
    "usr/lib/sysusers.d/*", "usr/lib/udev/*", "usr/lib/init/*", "etc/init.d/*", "etc/systemd/*",
    "etc/logrotate.d/*", "etc/cron.*", "etc/apparmor.d/*", "etc/default/*", "etc/rc*.d/*",
    "etc/bash_completion.d/*", "etc/ufw/*", "usr/share/apport/*", "usr/share/polkit-1/*",
    "usr/share/perl5/*", "usr/share/debconf/*", "var/cache/*", "var/log/*",
)  # fmt: skip
"""What no container of ours reads: documentation, translations, files of service managers."""

KEPT = ("usr/share/doc/*/copyright", "usr/share/doc")
"""Licences stay: whoever hands an image on must hand them on too."""

CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def dropped(path: str, more: Sequence[str] = ()) -> bool:
    """Whether a path is left out of every layer, or by these globs of the recipe."""
    if any(fnmatch.fnmatchcase(path, glob) for glob in more):
        return True
    if any(fnmatch.fnmatchcase(path, glob) for glob in KEPT):
        return False
    return any(fnmatch.fnmatchcase(path, glob) for glob in DROPPED)


def read_deb(deb: Path, scratch: Path) -> list[Entry]:
    """Every entry of a .deb; file contents stay in a tar below ``scratch``.

    :raises ImageError: dpkg-deb cannot read it.
    """
    unpacked = scratch / f"{deb.stem}.tar"
    with unpacked.open("wb") as stream:
        done = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", deb], stdout=stream, stderr=subprocess.PIPE, check=False
        )
    if done.returncode:
        raise ImageError(
            f"{deb} cannot be read: {done.stderr.decode(errors='replace').strip()}",
            "Delete that file and run again",
        )
    entries = []
    with tarfile.open(unpacked, "r:") as tar:
        for info in tar:
            path = normal(info.name)
            if not path:
                continue
            entry = Entry(path, mode=info.mode & 0o7777, uid=info.uid, gid=info.gid)
            if info.isdir():
                entries.append(replace(entry, kind="dir"))
            elif info.issym():
                entries.append(replace(entry, kind="symlink", target=info.linkname))
            elif info.islnk():
                entries.append(replace(entry, kind="hardlink", target=normal(info.linkname)))
            elif info.isreg():
                entries.append(
                    replace(entry, source=unpacked, offset=info.offset_data, size=info.size)
                )
            # Devices and pipes: no package of a container's needs one, and a layer may not have it.
    return entries


def status_entry(package: Package) -> Entry:
    """The package's record where scanners of slim images look for it."""
    stanza = (
        f"Package: {package.name}\nStatus: install ok unpacked\nArchitecture: "
        f"{package.architecture}\nSource: {package.source}\nVersion: {package.version}\n"
    )
    return Entry(f"var/lib/dpkg/status.d/{package.name}", data=stanza.encode())


def _ca_bundle(entries: Iterable[Entry]) -> list[Entry]:
    """What update-ca-certificates would have written, from the certificates in the layer."""
    bundle = b""
    for entry in sorted(entries, key=lambda entry: entry.path):
        if entry.path.startswith("usr/share/ca-certificates/") and entry.path.endswith(".crt"):
            bundle += content(entry).rstrip(b"\n") + b"\n"
    if not bundle:
        return []
    return [
        Entry(CA_BUNDLE, data=bundle),
        Entry("usr/lib/ssl/cert.pem", "symlink", 0o777, target="/" + CA_BUNDLE),
    ]


def content(entry: Entry) -> bytes:
    """The bytes of a file entry."""
    if entry.source is None:
        return entry.data
    with entry.source.open("rb") as stream:
        stream.seek(entry.offset)
        return stream.read(entry.size)


def debian_entries(
    packages: Sequence[tuple[Package, Path]], scratch: Path, drop: Sequence[str] = ()
) -> list[Entry]:
    """The entries of a layer that holds these packages (with their .deb files).

    :param scratch: an existing folder for contents; it must outlive the writing of the layer.
    :param drop: globs of paths that the recipe leaves out.
    """
    kept: list[Entry] = []
    for package, deb in packages:
        entries = with_usr_merged(read_deb(deb, scratch))
        files = {entry.path: entry for entry in entries if entry.kind == "file"}
        for entry in entries:
            if dropped(entry.path, drop):
                continue
            if entry.kind == "hardlink" and dropped(entry.target, drop):
                # The file's first name is left out: this one becomes the file.
                entry = replace(files[entry.target], path=entry.path)
            kept.append(entry)
        kept.append(status_entry(package))
    return kept + _ca_bundle(kept)
