from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal import drill, provenance, samples
from rehearsal.drills import images, images_sender
from rehearsal.drills.accounting import account
from rehearsal.drills.lake import Found
from rehearsal.errors import EstateError, UsageError
from rehearsal.rehearsal import Rehearsal
from services import batches
from services.pipeline import preprocess, settings
from tests.unit.rehearsal.conftest import Folders


@pytest.fixture
def photographs(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The photographs that are fetched already, in the test's own cache."""
    with monkeypatch.context() as outside:
        outside.delenv("ESTATE_CACHE")
        packages = samples.wheel_folder()
    target = folders.cache / "pipeline" / packages.name
    target.parent.mkdir(parents=True, mode=0o700)
    target.symlink_to(packages)
    yield


def test_without_a_seed_the_images_are_new_ones_and_leave_nothing(
    photographs: None, folders: Folders
) -> None:
    digests = []
    for _ in range(2):
        with images_sender.made(50, None) as (_, folder, known):
            assert len(known) == 50 == sum((folder / one.name).is_file() for one in known)
            digests.append({one.sha256 for one in known if one.verdict == "good"})
        assert not folder.exists()
    assert not digests[0] & digests[1]


def test_the_images_of_a_seed_are_made_once(photographs: None, folders: Folders) -> None:
    with images_sender.made(50, 3) as (seed, folder, first):
        assert seed == 3
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with images_sender.made(50, 3) as (_, again, second):
        assert (again, second) == (folder, first)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written


def test_small_ones_travel_in_batches_and_each_of_them_once(photographs: None) -> None:
    with images_sender.made(50, 3) as (seed, folder, known):
        work = images_sender.jobs(folder, known, seed)
        assert sum(job.images for job in work) == 50
        names = []
        for job in work:
            if "batch" not in job.metadata:
                names.append(job.metadata["filename"])
                assert (folder / names[-1]).stat().st_size >= images_sender.SMALL_BYTES
                continue
            content = io.BytesIO(b"".join(job.source.read_from(0)))
            for found in batches.read(content):
                if isinstance(found, batches.Found):
                    names.append(found.name)
                    assert found.length < images_sender.SMALL_BYTES
        assert sorted(names) == sorted(one.name for one in known)
        assert images_sender.jobs(folder, known, seed)[0].key == work[0].key


def test_one_of_the_images_is_too_large_for_the_pipeline(photographs: None) -> None:
    with images_sender.made(50, 3) as (_, _, known):
        (large,) = [one for one in known if one.reason == "too-large"]
        with pytest.raises(preprocess.Refused, match="too-large"):
            preprocess.check_length(large.length, settings.Limits())


def test_a_kill_that_comes_when_all_is_over_is_none(folders: Folders) -> None:
    said: list[str] = []
    progress = images_sender.Progress(10, received=10, accounted=10)
    struck = images._blow(images.KILLS[0], Rehearsal("one"), progress, said.append)
    assert "not killed: every image was accounted for" in struck.wrong
    assert not struck.met


def result(**changes: object) -> images.Result:
    nothing = account([], Found([], [], []))
    sent = images_sender.Sent(1, 1, {"received": 50}, 0, 3, 0, {}, 1.5)
    blow = images.Blow("tusd", "tusd of transfer-0", 2.0, 10, 5, 4.5)
    fields: dict[str, object] = {
        "seed": 1,
        "count": 50,
        "sent": sent,
        "kills": [blow],
        "account": nothing,
        "accounted_s": 9.0,
        "green": True,
    }
    return images.Result(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_target_is_met_by_all_of_it_only() -> None:
    assert result().met
    lost = account([], Found([], [], [], extra=["object 0a"]))
    unsent = images_sender.Sent(1, 1, {}, 0, 0, 5, {"one.jpg": "gave up"}, 1.5)
    for change in (
        {"green": False},
        {"account": lost},
        {"sent": unsent},
        {"kills": [images.Blow("tusd", "tusd of transfer-0", 2.0)]},
        {"kills": [images.Blow("tusd", "x", 2.0, 10, 5, 4.5, wrong="not killed")]},
    ):
        assert not result(**change).met, change


def test_it_is_shown_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images.show(result(account=account([], Found([], [], [], extra=["object 0a"]))))
    shown = capsys.readouterr()
    assert "tusd of transfer-0" in shown.out
    assert "object 0a is left over" in shown.err
    assert "no upload was cut" not in shown.err
    images.show(result(sent=images_sender.Sent(1, 1, {"received": 50}, 0, 0, 0, {}, 1.5)))
    assert "no upload was cut by the kills of tusd" in capsys.readouterr().err
    provenance.write(tmp_path / "out.json", "drill images", **result().json_object())
    assert '"met": true' in (tmp_path / "out.json").read_text()


@pytest.mark.parametrize("count", [0, 49, 5001])
def test_too_few_images_and_too_many_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match="--count"):
        drill.run("nobody", ["images"], None, count)


def test_it_needs_a_real_node_and_the_lake(folders: Folders, tmp_path: Path) -> None:
    made = Rehearsal("one")
    with pytest.raises(EstateError, match="does not exist"):
        drill.run("one", ["images"], None)
    made.prepare("node", "", None)
    with pytest.raises(UsageError, match=r"images.*up --name one --profile lake"):
        drill.run("one", ["images"], None)
    with pytest.raises(UsageError, match=r"images; it runs alone"):
        drill.choose(["images", "kubelet"])
