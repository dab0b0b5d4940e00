"""A rehearsal's record, ports, lock, environment and end, without starting anything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rehearsal import commands, paths, tools
from rehearsal.control_plane import port_free
from rehearsal.errors import EstateError, UsageError
from rehearsal.ports import FIRST_PORT, PORTS
from rehearsal.rehearsal import Rehearsal
from rehearsal.sandbox import Direct, Sandbox
from tests.unit.rehearsal.conftest import Folders


def free_base(after: int = 20000) -> int:
    """The first of PORTS free loopback ports, off the rehearsals' own and the kernel's range."""
    for base in range(after, 32000, PORTS):
        if all(port_free(port) for port in range(base, base + PORTS)):
            return base
    raise AssertionError("no ports")


@pytest.fixture
def rehearsal(folders: Folders) -> Rehearsal:
    made = Rehearsal("one")
    made.prepare("simulated", "no root", free_base())
    return made


# -- record ----------------------------------------------------------------------------------------


def test_a_rehearsal_that_is_not_there_is_named_with_those_that_are(folders: Folders) -> None:
    with pytest.raises(EstateError) as caught:
        Rehearsal("local").required()
    assert str(caught.value) == (
        "rehearsal local: does not exist (there are: none); run: ./estate up"
    )
    Rehearsal("one").prepare("node", "", free_base())
    with pytest.raises(EstateError, match=r"there are: one\); run: \./estate up --name two"):
        Rehearsal("two").required()
    assert not folders.state.joinpath("two").exists(), "asking makes nothing"


def test_a_configuration_that_would_lose_data_is_refused(rehearsal: Rehearsal) -> None:
    rehearsal.keeps({"kafka.storage.size_gib": 4})  # nothing was deployed yet
    rehearsal.deployed({"kafka.storage.size_gib": 2, "gone.size_gib": 1})
    rehearsal.keeps({"kafka.storage.size_gib": 2, "new.size_gib": 3})
    with pytest.raises(EstateError) as caught:
        rehearsal.keeps({"kafka.storage.size_gib": 4})
    assert str(caught.value) == (
        "configuration key kafka.storage.size_gib: 4, but what runs has 2 and would lose its "
        "data; put it back, or begin anew: ./estate down --name one"
    )


def test_ports_of_another_rehearsal_are_refused_also_while_it_sleeps(rehearsal: Rehearsal) -> None:
    base = rehearsal.required().port_base
    with pytest.raises(EstateError, match=f"rehearsal one has the {PORTS} ports from {base}"):
        Rehearsal("two").first_port(base + PORTS - 1)
    assert Rehearsal("two").first_port(free_base(base + PORTS)) >= base + PORTS


def test_the_record_is_found_again_and_its_folder_is_private(
    rehearsal: Rehearsal, folders: Folders
) -> None:
    again = Rehearsal("one")
    assert again.exists and again.required() == rehearsal.required()
    assert again.required().mode == "simulated" and again.required().reason == "no root"
    assert stat.S_IMODE((folders.state / "one").stat().st_mode) == 0o700


def test_an_existing_record_is_kept(rehearsal: Rehearsal) -> None:
    before = rehearsal.required()
    again = Rehearsal("one")
    again.prepare("node", "other", None)
    assert again.required() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "one"}', '{"unknown": 1}'])
def test_a_record_that_says_nothing_is_refused_and_can_be_removed(
    folders: Folders, content: str
) -> None:
    file = folders.state / "one" / "rehearsal.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    found = Rehearsal("one")
    for use in (found.required, lambda: found.prepare("node", "", None)):
        with pytest.raises(EstateError, match=r"rehearsal\.json .*; begin anew: \./estate down"):
            use()
    program = file.parent / "kwok" / "etcd"
    program.parent.mkdir()
    shutil.copy(shutil.which("sleep") or "", program)
    process = subprocess.Popen([program, "60"])
    found.destroy()
    assert process.wait(5) == -signal.SIGKILL
    assert not file.parent.exists()


@pytest.mark.parametrize("name", ["", "Two", "-a", "a" * 17, "../x", "a b", "rehearse-" + "a" * 17])
def test_a_name_that_could_be_no_folder_or_host_is_refused(folders: Folders, name: str) -> None:
    with pytest.raises(UsageError, match=r"^--name: "):
        Rehearsal(name)


# -- ports -----------------------------------------------------------------------------------------


def test_the_rehearsal_of_an_environment_may_have_a_longer_name(folders: Folders) -> None:
    assert Rehearsal("rehearse-production").name == "rehearse-production"


def test_two_rehearsals_get_ports_of_their_own(folders: Folders) -> None:
    one, two = Rehearsal("one"), Rehearsal("two")
    one.prepare("simulated", "", None)
    two.prepare("simulated", "", None)
    bases = one.required().port_base, two.required().port_base
    assert abs(bases[0] - bases[1]) >= PORTS
    assert all((base - FIRST_PORT) % PORTS == 0 for base in bases)
    assert one.api_port == bases[0]


def test_a_chosen_port_in_use_is_named_and_nothing_is_made(folders: Folders) -> None:
    base = free_base()
    with (
        socket.create_server(("127.0.0.1", base + 3)),
        pytest.raises(EstateError) as caught,
    ):
        Rehearsal("one").prepare("node", "", base)
    assert str(caught.value) == (
        f"port {base + 3}: in use by another program on 127.0.0.1; "
        "end that program, or choose other ports: "
        f"./estate up --name one --port-base {base + 1000}"
    )
    assert not folders.state.exists()


def test_the_ports_of_an_existing_rehearsal_do_not_move(rehearsal: Rehearsal) -> None:
    base = rehearsal.required().port_base
    Rehearsal("one").prepare("simulated", "", base)
    with pytest.raises(EstateError, match=rf"has its ports from {base}; run \./estate down"):
        Rehearsal("one").prepare("simulated", "", base + 100)


# -- lock ------------------------------------------------------------------------------------------


def test_a_second_command_is_refused_at_once(rehearsal: Rehearsal) -> None:
    other = (
        "from rehearsal.rehearsal import Rehearsal\nfrom rehearsal.errors import EstateError\n"
        "import sys\ntry:\n    with Rehearsal('one').locked(): pass\n"
        "except EstateError as error: sys.exit(str(error))\n"
    )

    def second() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-c", other],
            env={**os.environ, "PYTHONPATH": str(paths.root())},
            capture_output=True,
            text=True,
            check=False,
        )

    with rehearsal.locked():
        refused = second()
        with Rehearsal("two").locked():
            pass  # another rehearsal is nobody's business
    assert refused.returncode == 1
    assert refused.stderr.strip() == (
        "rehearsal one: another estate command is changing it; "
        "wait until it ends, then run this one again"
    )
    assert second().returncode == 0, "free again"


# -- environment -----------------------------------------------------------------------------------


def test_the_environment_keeps_pulumi_and_kubectl_in_its_folder(
    rehearsal: Rehearsal, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = str(folders.state / "one" / "bin")
    monkeypatch.setenv("PATH", f"/usr/bin:{own}:/bin")
    variables = rehearsal.variables()
    search = variables["PATH"].split(os.pathsep)
    assert search[0] == own and search.count(own) == 1 and search[-2:] == ["/usr/bin", "/bin"]
    for name in ("KUBECONFIG", "PULUMI_HOME", "PULUMI_CONFIG_PASSPHRASE_FILE", "ESTATE_SECRETS"):
        assert Path(variables[name]).is_relative_to(folders.state / "one"), name
    assert (
        variables["PULUMI_BACKEND_URL"] == f"file://{folders.state}/one/pulumi/state?metadata=skip"
    )
    assert variables["ESTATE_REHEARSAL"] == "one"
    pack = Path(variables["PULUMI_OPTION_POLICY_PACK"])
    assert (pack / "PulumiPolicy.yaml").is_file(), "no pulumi without the policies"
    assert variables["ESTATE_SIMULATED"] == "1"
    assert "PULUMI_CONFIG_PASSPHRASE" not in variables, "a file, never the value"
    assert rehearsal.environment().items() >= variables.items()


def test_where_it_runs_follows_its_mode(rehearsal: Rehearsal, folders: Folders) -> None:
    assert isinstance(rehearsal.box(), Direct)
    node = Rehearsal("node")
    node.prepare("node", "", free_base(rehearsal.api_port + PORTS))
    assert isinstance(node.box(), Sandbox)
    assert "ESTATE_SIMULATED" not in node.variables()
    assert node.control_plane({}).api_port == 6443, "in a network of its own"
    assert rehearsal.control_plane({}).api_port == rehearsal.api_port


def test_links_to_our_own_pulumi_bring_its_host_and_plugin(
    rehearsal: Rehearsal, tmp_path: Path
) -> None:
    found = {}
    for name in ("kubectl", "pulumi", "pulumi-resource-kubernetes"):
        found[name] = tmp_path / "tools" / name / name
        found[name].parent.mkdir(parents=True)
        found[name].write_text(name)
    for _ in range(2):  # a second `up` finds them
        rehearsal.link_tools(found)
    folder = rehearsal.folder / "bin"
    assert (folder / "kubectl").resolve() == found["kubectl"]
    # The engine looks for the language host beside its real file.
    assert not (folder / "pulumi").is_symlink()
    assert (folder / "pulumi").read_text() == "pulumi"
    assert os.access(folder / "pulumi-language-python", os.X_OK)
    version = tools.catalogue()["pulumi-resource-kubernetes"].version
    plugins = rehearsal.folder / "pulumi" / "home" / "plugins"
    plugin = plugins / f"resource-kubernetes-v{version}" / "pulumi-resource-kubernetes"
    assert plugin.resolve() == found["pulumi-resource-kubernetes"]
    secret = rehearsal.folder / "pulumi" / "passphrase"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600 and secret.stat().st_size >= 32


def test_an_official_pulumi_keeps_its_own_host(rehearsal: Rehearsal, tmp_path: Path) -> None:
    official = tmp_path / "official"
    official.mkdir()
    for name in ("pulumi", "pulumi-language-python", "kubectl"):
        (official / name).touch()
    found = {"pulumi": official / "pulumi", "kubectl": official / "kubectl"}
    rehearsal.link_tools(found)
    folder = rehearsal.folder / "bin"
    assert (folder / "pulumi").resolve() == official / "pulumi"
    assert not (folder / "pulumi-language-python").exists()


# -- the end ---------------------------------------------------------------------------------------


def test_destroy_leaves_nothing_in_the_state_folder(folders: Folders) -> None:
    made = Rehearsal("one")
    with made.locked():
        made.prepare("node", "", free_base())
        (made.folder / "deep" / "er").mkdir(parents=True)
        (made.folder / "deep" / "er" / "file").touch(mode=0o400)
        (made.folder / "deep" / "link").symlink_to("/nowhere")
        made.destroy()
    assert list(folders.state.iterdir()) == []
    assert not Rehearsal("one").exists
    Rehearsal("one").destroy()  # nothing there is no error


def test_destroy_ends_what_still_runs_and_keeps_the_others(folders: Folders) -> None:
    other = Rehearsal("two")
    other.prepare("node", "", free_base())
    made = Rehearsal("one")
    made.prepare("node", "", free_base(other.required().port_base + PORTS))
    process = made.node({}).daemons["kubelet"].start(["sleep", "60"])
    made.destroy()
    assert not process.is_running()
    assert [path.name for path in folders.state.iterdir()] == ["two"]
    assert json.loads((folders.state / "two" / "rehearsal.json").read_text())["name"] == "two"


def test_variables_of_another_rehearsal_and_of_the_users_pulumi_are_left_out(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = (
        *("ESTATE_PLACEHOLDERS", "ESTATE_REHEARSE", "ESTATE_SIMULATED"),
        *("PULUMI_CONFIG_PASSPHRASE", "PULUMI_EXPERIMENTAL", "PULUMI_SKIP_CHECKPOINTS"),
    )
    for name in foreign:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PASSWORD_OF_MINE", "kept")
    made = Rehearsal("one")
    made.prepare("node", "", None)
    found = made.environment()
    assert not set(foreign) & set(found)
    assert found["PASSWORD_OF_MINE"] == "kept"
    commands.env("one")
    said = capsys.readouterr().out.splitlines()
    assert {f"unset {name}" for name in foreign} <= set(said)
