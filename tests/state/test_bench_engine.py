"""`./estate bench engine`, small; and what a kill leaves of a state that is written in groups."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from rehearsal import bench_engine, paths
from rehearsal.kube import Api
from rehearsal.pulumi import Pulumi
from rehearsal.rehearsal import Rehearsal
from rehearsal.scale.objects import NAMESPACE
from rehearsal.up import find_tools

COUNT = 60


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="estate-"))
    monkeypatch.setenv("ESTATE_STATE", str(folder))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_it_takes_every_clock_and_leaves_nothing_behind(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine.json"
    command = [str(paths.root() / "estate"), "bench", "engine", "--count", "5", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    ways = {
        f"{way} {what}" for way in ("kubectl", "rehearsed", "kept") for what in ("up", "destroy")
    }
    assert set(found["clocks"]) == ways
    assert all(clock["seconds"] > 0 for clock in found["clocks"].values())
    assert set(found["ratios"]) == set(found["wanted"]) == set(bench_engine.WANTED)
    assert found["deployments"] == 5 and {"commit", "machine"} <= set(found)
    for name, wanted in found["wanted"].items():
        said = next(line for line in done.stderr.splitlines() if line.startswith(name + ": x "))
        assert said.endswith("met") == (found["ratios"][name] <= wanted)
    assert not (state / bench_engine.NAME).exists()


def test_what_was_made_before_a_kill_is_in_the_state(state: Path) -> None:
    """Checkpoints in groups lose nothing: what exists was made, or about to be, in the last one."""
    found = find_tools("simulated", offline=False)
    with (
        bench_engine.control_plane(found, COUNT) as rehearsal,
        (state / "log").open("w") as log,
    ):
        kept = bench_engine.program(rehearsal, COUNT, log, kept=True)
        killed = 0
        for after_s in (0.0, 0.3, 0.8, 1.5):
            kept.select()  # ends what is left of the killed one
            killed += _killed_at_work(rehearsal, kept, after_s)
            made, noted = _made(rehearsal), _noted(rehearsal)
            assert made <= noted, f"no checkpoint knows {made - noted}"
        assert made and killed >= 2
        # The one kind of file that would be written in place, so that a kill can leave half of it.
        assert not list((rehearsal.folder / "pulumi" / "state").rglob("*.attrs"))
        kept.select()
        assert kept.up(refresh=False), _end_of(state / "log")
        assert len(_made(rehearsal)) == 2 * COUNT
        urns = [one["urn"] for one in kept.state().resources]
        # Beside the objects: stack, component, provider, namespace.
        assert len(urns) == len(set(urns)) == 2 * COUNT + 4
        assert kept.destroy(), _end_of(state / "log")
        assert Api(rehearsal.kubeconfig).get(f"/api/v1/namespaces/{NAMESPACE}") is None


def _end_of(log: Path) -> str:
    """What went wrong stands at the end, after hundreds of lines of progress."""
    return "\n".join(log.read_text().splitlines()[-60:])


def _killed_at_work(rehearsal: Rehearsal, kept: Pulumi, after_s: float) -> bool:
    """Kill -9 of pulumi, so long after it wrote objects to its state; False: it was done before."""
    before = _noted(rehearsal)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(kept.up, refresh=False)
        while _noted(rehearsal) == before and not running.done():
            time.sleep(0.02)
        time.sleep(after_s)
        for process in psutil.Process().children():
            if process.name() == "pulumi":
                process.kill()
        return not running.result()


def _made(rehearsal: Rehearsal) -> set[tuple[str, str]]:
    api = Api(rehearsal.kubeconfig)
    return {
        (kind, body["metadata"]["name"])
        for version, kind in (("apps/v1", "Deployment"), ("v1", "ConfigMap"))
        for body in api.items(version, kind)
        if body["metadata"]["namespace"] == NAMESPACE
        and body["metadata"]["name"] != "kube-root-ca.crt"
    }


def _noted(rehearsal: Rehearsal) -> set[tuple[str, str]]:
    """What the checkpoint says is made, or is being made."""
    file = rehearsal.folder / "pulumi/state/.pulumi/stacks/estate" / f"{bench_engine.STACK}.json"
    if not file.exists() or not (latest := json.loads(file.read_text())["checkpoint"]["latest"]):
        return set()
    pending = [one["resource"] for one in latest.get("pending_operations") or []]
    inputs = [one.get("inputs") or {} for one in [*(latest.get("resources") or []), *pending]]
    return {(one["kind"], one["metadata"]["name"]) for one in inputs if "kind" in one}
