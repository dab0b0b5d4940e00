"""Layers: deterministic, merged below /usr, built from real .deb files."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from rehearsal import paths
from rehearsal.images import repository
from rehearsal.images.apt import Package, closure, parse_stanza
from rehearsal.images.debian import content, debian_entries, dropped, read_deb
from rehearsal.images.errors import ImageError
from rehearsal.images.layer import Entry, account_files, merged_usr, normal, write_layer
from rehearsal.images.recipe import SourceLayer
from rehearsal.images.sources import release_sources

EPOCH = 1_700_000_000


def tar_of(entries: list[Entry]) -> tuple[str, list[tarfile.TarInfo]]:
    stream = io.BytesIO()
    digest, size = write_layer(entries, stream, epoch=EPOCH)
    assert size == len(stream.getvalue())
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as tar:
        return digest, tar.getmembers()


def test_same_entries_in_any_order_give_the_same_digest() -> None:
    entries = [Entry(f"opt/f{number}", data=str(number).encode()) for number in range(50)]
    shuffled = random.Random(1).sample(entries, len(entries))
    assert tar_of(entries)[0] == tar_of(shuffled)[0]


@pytest.mark.parametrize(
    "other",
    [
        Entry("opt/f", data=b"y"),
        Entry("opt/f", data=b"x", mode=0o755),
        Entry("opt/f", data=b"x", uid=1),
        Entry("opt/g", data=b"x"),
    ],
)
def test_other_entries_give_another_digest(other: Entry) -> None:
    assert tar_of([Entry("opt/f", data=b"x")])[0] != tar_of([other])[0]


def test_tar_has_parents_one_time_stamp_and_no_names_of_owners() -> None:
    _, members = tar_of([Entry("a/b/c", data=b"x", uid=26, gid=26)])
    assert [(member.name, member.isdir()) for member in members] == [
        ("a", True), ("a/b", True), ("a/b/c", False),
    ]  # fmt: skip
    assert {member.mtime for member in members} == {EPOCH}
    assert (members[-1].uid, members[-1].uname, members[0].uid) == (26, "", 0)


def test_hard_link_follows_its_file_and_must_have_one() -> None:
    _, members = tar_of([Entry("a", "hardlink", target="z"), Entry("z", data=b"x")])
    assert [member.name for member in members] == ["z", "a"]
    with pytest.raises(ImageError, match=r"hard link 'a' to 'z'"):
        tar_of([Entry("a", "hardlink", target="z")])


def test_paths() -> None:
    assert merged_usr("lib/x86_64-linux-gnu/libc.so.6") == "usr/lib/x86_64-linux-gnu/libc.so.6"
    assert merged_usr("library/x") == "library/x"
    assert normal("./etc//passwd") == "etc/passwd"
    with pytest.raises(ImageError, match="leads out"):
        normal("../etc/passwd")


def test_accounts_name_the_user_once() -> None:
    files = {
        entry.path: entry.data.decode()
        for entry in account_files(
            [{"name": "postgres", "uid": 26, "gid": 26, "home": "/var/lib/postgresql"}]
        )
    }
    assert "postgres:x:26:26::/var/lib/postgresql:/bin/sh\n" in files["etc/passwd"]
    assert "postgres:x:26:\n" in files["etc/group"]


def package(name: str, *depends: tuple[str, ...], provides: tuple[str, ...] = ()) -> Package:
    return Package(name, "1.0-1", "amd64", "0" * 64, 1, name, depends, provides)


def test_closure_follows_alternatives_and_virtual_packages_and_leaves_out() -> None:
    resolved = [
        package("app", ("missing", "lib-a"), ("virtual",), ("script",)),
        package("lib-a", ("lib-b",)),
        package("lib-b", ("lib-a",)),
        package("provider", provides=("virtual",)),
        package("script", ("perl",)),
        package("perl"),
    ]
    names = [found.name for found in closure(["app"], resolved, ["script"])]
    assert names == ["app", "lib-a", "lib-b", "provider"]
    with pytest.raises(ImageError, match="'other' is not in the resolved set"):
        closure(["other"], resolved)


def test_stanza_and_upstream_version() -> None:
    found = parse_stanza(
        "Package: busybox-static\nSource: busybox (1:1.35.0-4)\nVersion: 1:1.35.0-4+b1\n"
        "Architecture: amd64\nPre-Depends: libc6 (>= 2.34)\nDepends: a:any | b (= 1),\n c\n"
        "Description: x\n y: z\nSize: 12\nSHA256: " + "a" * 64 + "\n"
    )
    assert found.depends == (("libc6",), ("a", "b"), ("c",))
    assert (found.upstream, found.source) == ("1.35.0", "busybox")
    assert package("x").upstream == "1.0"


def make_deb(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    root = folder / name
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1.0-1\nArchitecture: all\nMaintainer: x <x@localhost>\n"
        "Description: x\n"
    )
    (root / "DEBIAN" / "postinst").write_text("#!/bin/sh\ntouch /this-must-never-run\n")
    (root / "DEBIAN" / "postinst").chmod(0o755)
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    deb = folder / f"{name}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", root, deb], check=True, capture_output=True
    )
    return deb


def test_layer_of_a_package_merges_usr_drops_manuals_and_keeps_licences(tmp_path: Path) -> None:
    certificate = b"-----BEGIN CERTIFICATE-----\n"
    deb = make_deb(tmp_path, "demo", {
        "lib/libdemo.so": b"lib", "usr/share/man/man1/demo.1": b"m",
        "usr/share/doc/demo/copyright": b"c", "usr/share/doc/demo/changelog": b"d",
        "usr/share/ca-certificates/mozilla/A.crt": certificate, "opt/extra": b"e",
    })  # fmt: skip
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert any(entry.path == "lib/libdemo.so" for entry in read_deb(deb, scratch))
    entries = debian_entries([(package("demo"), deb)], scratch, ["opt/*"])
    files = {entry.path: entry for entry in entries if entry.kind == "file"}
    assert set(files) == {
        "usr/lib/libdemo.so", "usr/share/doc/demo/copyright", "var/lib/dpkg/status.d/demo",
        "usr/share/ca-certificates/mozilla/A.crt", "etc/ssl/certs/ca-certificates.crt",
    }  # fmt: skip
    assert files["etc/ssl/certs/ca-certificates.crt"].data == certificate
    assert not Path("/this-must-never-run").exists()
    assert tar_of(entries)[0] == tar_of(list(reversed(entries)))[0]
    assert dropped("usr/share/locale/de/x.mo") and not dropped("usr/bin/x")


def test_a_hard_link_outlives_the_name_that_is_dropped(tmp_path: Path) -> None:
    deb = make_deb(tmp_path, "demo", {"usr/bin/a": b"same"})
    (tmp_path / "demo" / "usr" / "bin" / "b").hardlink_to(tmp_path / "demo" / "usr" / "bin" / "a")
    subprocess.run(["dpkg-deb", "-b", tmp_path / "demo", deb], check=True, capture_output=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    kinds = {entry.path: entry.kind for entry in read_deb(deb, scratch)}
    linked = next(path for path, kind in kinds.items() if kind == "hardlink")
    (name,) = {"usr/bin/a", "usr/bin/b"} - {linked}
    entries = debian_entries([(package("demo"), deb)], scratch, [name])
    (kept,) = [entry for entry in entries if entry.path == linked]
    assert (kept.kind, content(kept)) == ("file", b"same")


def test_a_broken_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.deb").write_bytes(b"no archive")
    with pytest.raises(ImageError, match=r"broken\.deb cannot be read"):
        read_deb(tmp_path / "broken.deb", tmp_path)


def test_sources_take_only_signed_ones_of_the_release(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "debian.sources").write_text(
        "# a comment\nTypes: deb deb-src\nURIs: http://mirror.invalid/debian\n"
        "Suites: bookworm bookworm-updates trixie\nComponents: main contrib\n"
        "Signed-By: /usr/share/keyrings/k.gpg\n\n"
        "Types: deb\nURIs: http://off.invalid\nSuites: bookworm\nComponents: main\nEnabled: no\n\n"
        "Types: deb\nURIs: http://blind.invalid\nSuites: bookworm\nComponents: main\nTrusted: yes\n"
    )
    (parts / "vendor.list").write_text(
        "deb [arch=amd64] http://vendor.invalid/apt stable main\n"
        "deb [signed-by=/k.gpg] http://sec.invalid/ bookworm-security main # x\n"
    )
    (parts / "old.sources.disabled").write_text("Types: deb\nSuites: bookworm\n")
    text = release_sources("bookworm", tmp_path)
    assert "Suites: bookworm bookworm-updates\n" in text and "contrib" not in text
    assert "URIs: http://sec.invalid/\nSuites: bookworm-security" in text
    assert "Signed-By: /k.gpg" in text
    for name in ("vendor", "off", "blind", "trixie"):
        assert name not in text
    with pytest.raises(ImageError, match="no signed source of 'sid'"):
        release_sources("sid", tmp_path)


def test_a_source_layer_holds_the_repositorys_files() -> None:
    layer = SourceLayer(kind="source", path="services", into="/opt/estate/services")
    made = {entry.path: entry for entry in repository.entries(layer)}
    assert made["opt/estate/services/__init__.py"].source == paths.root() / "services/__init__.py"
    one = SourceLayer(kind="source", path="services/__init__.py", into="/opt/x.py")
    assert [entry.path for entry in repository.entries(one)] == ["opt/x.py"]
    assert repository.described(one) != repository.described(layer)
    with pytest.raises(ImageError, match="'servces' has no file"):
        repository.entries(layer.model_copy(update={"path": "servces"}))
