"""Building: the same inputs give the same digest, shared layers, locks, bills of materials."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import threading
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from rehearsal.images import apt as apt_module
from rehearsal.images import containerd, maven, pypi
from rehearsal.images.apt import Apt, Package
from rehearsal.images.build import Builder
from rehearsal.images.errors import ImageError
from rehearsal.images.fsio import atomic, digest_of, sha256_of, write_json
from rehearsal.images.golang import linked_modules, needs_loader
from rehearsal.images.inputs import resolve
from rehearsal.images.recipe import RECIPES, MavenLayer, PypiLayer, Recipes, load

SHARED = """
epoch = 1700000000
[[layer]]
name = "skeleton"
kind = "files"
accounts = true
files = [{ path = "/tmp", directory = true, mode = "1777" }]
"""

IMAGE = """
[[image]]
key = "{key}"
repository = "docker.io/estate/{key}"
tag = "1.0"
smoke = ["/tool"]
layers = [
  {{ use = "skeleton" }},
  {{ kind = "go", tool = "{key}", version = "v1", path = "/tool", links = ["/other"] }},
]
[image.config]
cmd = ["/tool"]
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "_shared.toml").write_text(SHARED)
    (folder / "some.toml").write_text(IMAGE.format(key="one") + IMAGE.format(key="two"))
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name in ("one", "two"):
        found[name] = tmp_path / name
        found[name].write_bytes(name.encode() * 1000)
    return found


def test_same_inputs_same_digest_in_another_cache(
    tmp_path: Path, recipes: Path, tools: dict[str, Path]
) -> None:
    first = Builder(tmp_path / "a", recipes=recipes).build(tools=tools)
    second = Builder(tmp_path / "b", recipes=recipes).build(tools=tools)
    assert {key: image.digest for key, image in first.items()} == {
        key: image.digest for key, image in second.items()
    }
    assert first["one"].sbom.read_bytes() == second["one"].sbom.read_bytes()


def test_layers_are_shared_and_only_what_changed_is_built(
    tmp_path: Path, recipes: Path, tools: dict[str, Path]
) -> None:
    builder = Builder(tmp_path / "cache", recipes=recipes)
    first = builder.build(tools=tools)
    assert first["one"].layers[0] == first["two"].layers[0]
    assert sorted(name for image in first.values() for name in image.built) == [
        "go", "go", "skeleton",
    ]  # fmt: skip
    assert all(image.built == () for image in builder.build(tools=tools).values())
    tools["two"].write_bytes(b"new")
    again = builder.build(tools=tools)
    assert (again["one"].built, again["two"].built) == ((), ("go",))
    assert again["one"].digest == first["one"].digest
    assert again["two"].digest != first["two"].digest


def test_a_layer_whose_blob_was_cut_is_built_again(
    tmp_path: Path, recipes: Path, tools: dict[str, Path]
) -> None:
    builder = Builder(tmp_path / "cache", recipes=recipes)
    image = builder.build(["one"], tools=tools)["one"]
    builder.store.path(image.layers[1].digest).write_bytes(b"cut")
    again = builder.build(["one"], tools=tools)["one"]
    assert (again.built, again.digest) == (("go",), image.digest)


def test_layout_archive_and_images_json(
    tmp_path: Path, recipes: Path, tools: dict[str, Path]
) -> None:
    builder = Builder(tmp_path / "cache", recipes=recipes)
    builder.build(["one"], tools=tools)
    made = builder.build(["two"], tools=tools)
    lock = json.loads(builder.lock_file.read_text())
    assert set(lock) == {"one", "two"}, "a later build of another image must not forget the first"
    assert lock["two"]["digest"] == made["two"].digest
    assert lock["two"]["repository"] == "docker.io/estate/two" and lock["two"]["tag"] == "1.0"

    archive = tmp_path / "images.tar"
    builder.archive(list(made.values()), archive)
    with tarfile.open(archive) as tar:
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        for member in tar.getmembers():
            if member.name.startswith("blobs/"):
                data = tar.extractfile(member).read()  # type: ignore[union-attr]
                assert hashlib.sha256(data).hexdigest() == member.name.rpartition("/")[2]
    names = [item["annotations"]["io.containerd.image.name"] for item in index["manifests"]]
    assert names == ["docker.io/estate/two:1.0", f"docker.io/estate/two@{made['two'].digest}"]

    manifest = json.loads(builder.store.path(made["two"].digest).read_bytes())
    config = json.loads(builder.store.path(manifest["config"]["digest"]).read_bytes())
    assert config["config"]["Cmd"] == ["/tool"] and "Entrypoint" not in config["config"]
    assert config["config"]["User"] == "65534:65534"
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]


def test_inputs_key_without_a_built_tool(
    tmp_path: Path, recipes: Path, tools: dict[str, Path]
) -> None:
    builder = Builder(tmp_path / "cache", recipes=recipes)
    assert builder.inputs_key("one", tools) == builder.inputs_key("one", tools)
    key = builder.inputs_key("one", {"one": "go.sum abc"})
    assert key != builder.inputs_key("one", {"one": "go.sum def"})
    with pytest.raises(ImageError, match=r"image one, layer go: tool 'one' is not built"):
        builder.inputs_key("one", {})


def test_a_missing_tool_is_named_and_the_rest_is_kept(
    tmp_path: Path, recipes: Path, tools: dict[str, Path]
) -> None:
    builder = Builder(tmp_path / "cache", recipes=recipes)
    tools["one"].unlink()
    with pytest.raises(ImageError, match=r"image one, layer go: tool 'one' is not built"):
        builder.build(tools=tools)
    assert set(json.loads(builder.lock_file.read_text())) == {"two"}


def test_a_dynamic_binary_needs_a_libc_in_its_image(
    tmp_path: Path, recipes: Path, tools: dict[str, Path]
) -> None:
    with pytest.raises(ImageError, match=r"image one, layer go: /bin/sh is linked dynamically"):
        Builder(tmp_path / "cache", recipes=recipes).build(
            ["one"], tools={**tools, "one": Path("/bin/sh")}
        )


def test_two_builders_at_once_agree(tmp_path: Path, recipes: Path, tools: dict[str, Path]) -> None:
    digests: list[str] = []

    def run() -> None:
        made = Builder(tmp_path / "cache", recipes=recipes).build(tools=tools)
        digests.append(made["one"].digest)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 4 and len(set(digests)) == 1


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(path) as stream:
        stream.write(b"new")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


# --- Debian --------------------------------------------------------------------------------

DEBIAN = """
[[image]]
key = "app"
repository = "docker.io/estate/app"
tag = "2.0"
version_from = "app"
smoke = ["/usr/bin/app"]
layers = [
  { kind = "debian", name = "base", packages = ["libc"] },
  { kind = "debian", name = "app", packages = ["app"] },
]
[image.config]
cmd = ["/usr/bin/app"]
"""


def deb(folder: Path, name: str, version: str = "1.0-1", *depends: str) -> Package:
    """A real .deb in an apt root, and its record."""
    root = folder / "work" / name
    (root / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (root / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
        "Maintainer: x <x@localhost>\nDescription: x\n"
    )
    (root / "usr" / "bin").mkdir(parents=True, exist_ok=True)
    (root / "usr" / "bin" / name).write_text(version)
    built = folder / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, built], check=True,
                   capture_output=True)  # fmt: skip
    checksum = sha256_of(built)
    (folder / "debs").mkdir(exist_ok=True)
    size = built.stat().st_size
    built.replace(folder / "debs" / f"{checksum}.deb")
    return Package(
        name, version, "all", checksum, size, name, tuple((depend,) for depend in depends)
    )


def write_apt_lock(root: Path, requests: dict[str, list[Package]], refreshed: float) -> None:
    write_json(
        root / "lock.json",
        {
            "refreshed": refreshed,
            "requests": {
                digest_of([name]): [asdict(package) for package in packages]
                for name, packages in requests.items()
            },
        },
    )


@pytest.fixture
def debian(tmp_path: Path) -> Builder:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "_shared.toml").write_text("epoch = 1700000000\nlayer = []\n")
    (folder / "app.toml").write_text(DEBIAN)
    builder = Builder(tmp_path / "cache", recipes=folder)
    builder.apt.root.mkdir(parents=True, exist_ok=True)
    libc, app = deb(builder.apt.root, "libc"), deb(builder.apt.root, "app", "1.0-1", "libc")
    far = 4e9  # a resolve that is always of today
    write_apt_lock(builder.apt.root, {"libc": [libc], "app": [libc, app]}, far)
    return builder


def test_a_layer_holds_its_closure_less_the_layers_below(debian: Builder) -> None:
    image = debian.build(tools={})["app"]
    held = []
    for layer in image.layers:
        with tarfile.open(debian.store.path(layer.digest)) as tar:
            held.append({name for name in tar.getnames() if name.startswith("usr/bin/")})
    assert held == [{"usr/bin/libc"}, {"usr/bin/app"}]
    assert image.notes and "is tagged 2.0, but holds app 1.0" in image.notes[0]


def test_a_lower_layer_of_another_version_is_refused(debian: Builder) -> None:
    libc, newer = deb(debian.apt.root, "libc"), deb(debian.apt.root, "libc", "1.1-1")
    app = deb(debian.apt.root, "app", "1.0-1", "libc")
    write_apt_lock(debian.apt.root, {"libc": [libc], "app": [newer, app]}, 4e9)
    with pytest.raises(
        ImageError, match=r"image app, layer app: needs libc 1\.1-1, but a lower layer has 1\.0-1"
    ):
        debian.build(tools={})


def test_bill_of_materials(debian: Builder) -> None:
    image = debian.build(tools={})["app"]
    bill = json.loads(image.sbom.read_text())
    assert bill["spdxVersion"] == "SPDX-2.3" and bill["SPDXID"] == "SPDXRef-DOCUMENT"
    by_name = {package["name"]: package for package in bill["packages"]}
    assert set(by_name) == {"docker.io/estate/app", "libc", "app"}
    assert by_name["app"]["versionInfo"] == "1.0-1"
    (checksum,) = by_name["app"]["checksums"]
    assert (debian.apt.root / "debs" / f"{checksum['checksumValue']}.deb").exists()
    assert by_name["app"]["externalRefs"][0]["referenceLocator"] == (
        "pkg:deb/debian/app@1.0-1?arch=all"
    )
    digest = by_name["docker.io/estate/app"]["checksums"][0]["checksumValue"]
    assert f"sha256:{digest}" == image.digest
    related = {item["relatedSpdxElement"] for item in bill["relationships"]}
    assert related == {package["SPDXID"] for package in bill["packages"]}


def test_without_a_network_the_last_resolve_is_used_and_said(
    debian: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc, app = deb(debian.apt.root, "libc"), deb(debian.apt.root, "app", "1.0-1", "libc")
    write_apt_lock(debian.apt.root, {"libc": [libc], "app": [libc, app]}, 1e9)
    calls = []

    def unreachable(self: Apt, *argv: str, cwd: Path | None = None) -> str:
        calls.append(argv)
        raise ImageError("no route", "Wait")

    monkeypatch.setattr(apt_module.Apt, "_run", unreachable)
    image = debian.build(tools={})["app"]
    assert len(calls) == 1, "a dead network is waited for once"
    assert any("using the resolve of 2001-09-09" in note for note in image.notes)


# --- Maven, PyPI, Go, recipes ---------------------------------------------------------------


def maven_layer(lock: str = "x.maven.lock") -> MavenLayer:
    return MavenLayer(kind="maven", artifacts=("g:a:1",), lock=lock, into="/opt/libs")


def test_maven_lock_mismatch_names_the_jar(tmp_path: Path) -> None:
    jar = tmp_path / "a.jar"
    jar.write_bytes(b"jar")
    good = {"g:a:1": sha256_of(jar)}
    maven.verified({"g:a:1": jar}, good)
    with pytest.raises(ImageError, match=r"g:a:1 has SHA-256 .*, the lock has 0000"):
        maven.verified({"g:a:1": jar}, {"g:a:1": "0" * 64})
    with pytest.raises(ImageError, match="g:b:1 is not in the lock"):
        maven.verified({"g:b:1": jar}, good)
    with pytest.raises(ImageError, match=r"g:c:1 of the lock was not resolved"):
        maven.verified({"g:a:1": jar}, {**good, "g:c:1": "0" * 64})


def test_maven_layer_takes_kept_jars_without_maven(tmp_path: Path) -> None:
    checksum = hashlib.sha256(b"jar").hexdigest()
    (tmp_path / "maven" / "jars").mkdir(parents=True)
    (tmp_path / "maven" / "jars" / f"{checksum}.jar").write_bytes(b"jar")
    (tmp_path / "x.maven.lock").write_text(f"# comment\ng:a:1:linux {checksum}\n")
    entries, components = maven.layer_content(
        maven_layer(), tmp_path, tmp_path, Apt(tmp_path / "apt")
    )
    assert [entry.path for entry in entries] == ["opt/libs/a-1-linux.jar"]
    assert components[0].purl == "pkg:maven/g/a@1"


@pytest.mark.parametrize("line", ["g:a:1", "g:a " + "0" * 64, "g:a:1 abc"])
def test_maven_lock_line_that_is_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "x").write_text(line + "\n")
    with pytest.raises(ImageError, match="x line 1"):
        maven.read_lock(tmp_path / "x")


def test_pypi_requirement_without_hash_is_refused(tmp_path: Path) -> None:
    layer = PypiLayer(kind="pypi", requirements="r.lock", python="3.11")
    (tmp_path / "r.lock").write_text("thing==1.0\n")
    with pytest.raises(ImageError, match=r"'thing==1.0' has no version or no hash"):
        pypi.read_lock(tmp_path, layer)


def some_wheels(options: dict[str, tuple[str, ...]]) -> PypiLayer:
    fixed = {"kind": "pypi", "requirements": "r.lock", "python": "3.11"}
    return PypiLayer.model_validate({**fixed, **options})


LOCK = "".join(f"{name}==1.0 \\\n    --hash=sha256:{name[0] * 64}\n" for name in ("abc", "def"))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["abc", "def"]),
        ({"only": ("abc",)}, ["abc"]),
        ({"without": ("abc",)}, ["def"]),
    ],
)
def test_a_pypi_layer_takes_some_packages_of_a_lock(
    tmp_path: Path, options: dict[str, tuple[str, ...]], names: list[str]
) -> None:
    layer = some_wheels(options)
    (tmp_path / "r.lock").write_text(LOCK)
    taken = pypi.chosen(tmp_path, layer).splitlines()
    assert [line.partition("==")[0] for line in taken] == names


@pytest.mark.parametrize("option", ["only", "without"])
def test_a_package_that_the_lock_lacks_is_named(tmp_path: Path, option: str) -> None:
    layer = some_wheels({option: ("xyz",)})
    (tmp_path / "r.lock").write_text(LOCK)
    with pytest.raises(ImageError, match=r"r.lock has no 'xyz'"):
        pypi.chosen(tmp_path, layer)


def test_a_wheel_without_what_the_recipe_drops(tmp_path: Path) -> None:
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing/__init__.py", "here = True\n")
        archive.writestr("thing/include/deep/thing.h", "no\n")
        archive.writestr("thing-1.0.data/purelib/thing/include/more.h", "no\n")
    found = pypi.wheel_entries(wheel, "opt/x", tmp_path / "s", ["*/thing/include/*"])
    assert [entry.path for entry in found] == ["opt/x/thing/__init__.py"]
    assert found[0].source is not None
    assert found[0].source.read_text() == "here = True\n"


def test_static_and_dynamic_binaries_are_told_apart(tmp_path: Path) -> None:
    assert needs_loader(Path("/bin/sh"))
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert not needs_loader(tmp_path / "script")
    assert linked_modules(tmp_path / "script") == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('tag = "1.0"', 'tga = "1.0"', "tag = "),
        ('kind = "go"', 'kind = "gone"', "kind"),
        ('use = "skeleton"', 'use = "bones"', "'bones', which _shared.toml does not have"),
        ('key = "two"', 'key = "one"', "two recipes have the key 'one'"),
    ],
)
def test_a_wrong_recipe_is_explained(recipes: Path, old: str, new: str, said: str) -> None:
    file = recipes / "some.toml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ImageError, match=said):
        load(recipes)


def test_the_recipes_of_the_estate_are_whole() -> None:
    found: Recipes = load(RECIPES)
    assert {"pause", "coredns", "busybox", "mosquitto", "kafka", "postgresql"} <= set(found.images)
    for key, recipe in found.images.items():
        uid, _, gid = recipe.config.user.partition(":")
        assert int(uid) > 0 and int(gid) > 0, f"{key} must not run as root"
        for layer in recipe.layers:
            if isinstance(layer, MavenLayer):
                assert maven.read_lock(RECIPES / layer.lock)
            if isinstance(layer, PypiLayer):
                assert pypi.chosen(RECIPES, layer).strip()
    with pytest.raises(ImageError, match="no recipe 'mosquito'"):
        found.chosen(["mosquito"])


def test_containerd_that_does_not_answer_is_named() -> None:
    with pytest.raises(ImageError, match="containerd does not answer: gone"):
        containerd.present(["sh", "-c", "echo gone >&2; exit 1"])


def test_import_skips_what_is_there_and_reports_a_refusal(
    tmp_path: Path, recipes: Path, tools: dict[str, Path]
) -> None:
    made = Builder(tmp_path / "cache", recipes=recipes).build(tools=tools)
    names = " ".join(name for image in made.values() for name in image.named.names)
    assert containerd.import_into(["sh", "-c", f"printf '%s\\n' {names}"], made) == []
    refusing = ["sh", "-c", '[ "$1" = ls ] || { echo no space >&2; exit 1; }']
    with pytest.raises(ImageError, match="import of one, two failed: no space"):
        containerd.import_into(refusing, made)


def test_a_layer_without_packages_has_its_own_key(tmp_path: Path, recipes: Path) -> None:
    found = load(recipes)
    apt = Apt(tmp_path / "apt")
    (skeleton, tool) = resolve(found.images["one"], found, apt, {"one": "identity"})
    assert skeleton.packages == () and skeleton.key != tool.key
