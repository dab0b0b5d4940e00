from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import threading
import time
from collections import deque
from typing import Any

import jsonschema
import pytest

from services.annotation.__main__ import main
from services.pipeline import datasets
from services.pipeline.buckets import Bucket
from tests.annotation.conftest import COUNT, HEIGHT, WIDTH, World, picture, stored
from tests.doubles.supervisely import TOKEN, Refused

BOX = {"points": {"exterior": [[5, 6], [20, 30]], "interior": []}}
RING = {"points": {"exterior": [[1, 1], [30, 1], [30, 20]], "interior": []}}
NUMBER, TEXT = {"type": "integer", "minimum": 1}, {"type": "string", "minLength": 1}
LENGTHS = {"type": "array", "items": {"type": "number", "minimum": 0}}
COCO = {
    "type": "object",
    "required": ["info", "images", "annotations", "categories"],
    "properties": {
        "images": {
            "type": "array",
            "items": {
                "required": ["id", "file_name", "width", "height"],
                "properties": {
                    "id": NUMBER,
                    "file_name": TEXT,
                    "width": NUMBER,
                    "height": NUMBER,
                },
            },
        },
        "categories": {
            "type": "array",
            "items": {
                "required": ["id", "name", "supercategory"],
                "properties": {"id": NUMBER, "name": TEXT, "supercategory": TEXT},
            },
        },
        "annotations": {
            "type": "array",
            "items": {
                "required": ["id", "image_id", "category_id", "bbox", "area", "iscrowd"],
                "properties": {
                    "id": NUMBER,
                    "image_id": NUMBER,
                    "category_id": NUMBER,
                    "iscrowd": {"enum": [0, 1]},
                    "area": {"type": "number", "minimum": 0},
                    "bbox": {**LENGTHS, "minItems": 4, "maxItems": 4},
                    "segmentation": {
                        "oneOf": [
                            {"type": "array", "items": {**LENGTHS, "minItems": 6}},
                            {
                                "type": "object",
                                "required": ["counts", "size"],
                                "properties": {"counts": LENGTHS, "size": LENGTHS},
                            },
                        ]
                    },
                },
            },
        },
    },
}


def annotated(world: World) -> list[str]:
    """Three finished images: a box and a ring, a mask, and one without any object."""
    from supervisely import Bitmap

    names = world.names()
    world.double.label(names[0], "car", BOX, "rectangle")
    world.double.label(names[0], "road", RING, "polygon")
    import numpy as np

    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 1:4] = True
    bitmap = {"bitmap": {"data": Bitmap.data_2_base64(mask), "origin": [10, 12]}}
    world.double.label(names[1], "mark", bitmap, "bitmap")
    for name in names[:3]:
        world.double.finish(name)
    return names[:3]


def contents(world: World) -> dict[str, bytes]:
    """All that is in the bucket of datasets."""
    keys = list(world.store.keys(""))
    return {key: world.store.get(key) for key in keys}


# -- send ------------------------------------------------------------------------------------------


def test_a_version_is_sent_once(world: World) -> None:
    found, _ = world.ask("send")
    assert found == {"images": COUNT, "added": COUNT, "uploaded": COUNT}
    assert sorted(one["name"] for one in world.double.images.values()) == world.names()
    (meta,) = world.double.metas.values()
    assert {one["title"]: one["shape"] for one in meta["classes"]} == {
        "car": "rectangle",
        "road": "polygon",
        "mark": "bitmap",
    }
    assert [one["name"] for one in meta["tags"]] == ["finished"]
    before = {**world.double.asked}
    found, _ = world.ask("send")
    assert found == {"images": COUNT, "added": 0, "uploaded": 0}
    writing = ("images.bulk.upload", "images.bulk.add", "projects.meta.update", "datasets.add")
    assert [world.double.asked[route] - before[route] for route in writing] == [0] * 4


def test_another_version_sends_only_what_the_server_has_not(world: World) -> None:
    world.ask("send")
    world.version = stored(world.s3, COUNT + 2)
    found, _ = world.ask("send")
    assert found == {"images": COUNT + 2, "added": COUNT + 2, "uploaded": 2}
    assert len(world.double.datasets) == 2


@pytest.mark.parametrize("route", ["images.bulk.upload", "images.bulk.add"])
def test_killed_half_way_it_goes_on(world: World, route: str) -> None:
    at_second, go = threading.Event(), threading.Event()

    def hook() -> None:
        if world.double.asked[route] == 1:
            at_second.set()
            go.wait(20)

    world.double.on[route] = hook
    child = os.fork()
    if child == 0:
        try:
            main(["send", world.version.name, world.version.digest], s3=world.s3)
        finally:
            os._exit(0)
    assert at_second.wait(20)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    go.set()
    world.double.on.clear()
    # The request that was under way may still be carried out.
    deadline = time.monotonic() + 10
    while world.double.asked[route] < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    had = len(world.double.images)
    assert 0 < had < COUNT
    found, _ = world.ask("send")
    assert found["added"] == COUNT - had
    assert sorted(one["name"] for one in world.double.images.values()) == world.names()


def test_it_waits_as_long_as_it_is_told(world: World) -> None:
    told = Refused(429, {"error": "slow down"}, {"Retry-After": "1"})
    world.double.answers["images.bulk.add"] = deque([told])
    began = time.monotonic()
    assert world.ask("send")[0]["added"] == COUNT
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("route", ["teams.list", "images.list", "images.bulk.upload"])
def test_a_server_that_is_busy_is_asked_again(world: World, route: str) -> None:
    world.double.answers[route] = deque([Refused(503, {}), Refused(500, {})])
    world.ask("send")
    assert len(world.double.images) == COUNT


def test_a_lost_answer_makes_nothing_twice(world: World) -> None:
    world.double.after["images.bulk.add"] = Refused(503, {"error": "lost"})
    world.ask("send")
    assert sorted(one["name"] for one in world.double.images.values()) == world.names()


def test_a_server_that_stays_busy_is_given_up(world: World) -> None:
    world.double.answers["teams.list"] = deque([Refused(503, {})] * 4)
    _, said = world.ask("send", 1)
    assert "gave no answer in 4 attempts" in said
    assert world.double.asked["teams.list"] == 4


def test_a_wrong_token_is_one_clear_line(world: World) -> None:
    world.token.write_text("wrong-token-0815")
    _, said = world.ask("send", 1)
    (line,) = [one for one in said.splitlines() if one.startswith("annotation:")]
    assert "refuses the token in" in line and str(world.token) in line
    assert "wrong-token-0815" not in said
    world.token.unlink()
    assert "mount the secret there" in world.ask("send", 1)[1]


def test_a_server_of_another_authority_is_refused(world: World) -> None:
    world.change("server", ca=None, attempts=1)
    _, said = world.ask("send", 1)
    assert "does server.ca verify it?" in said and "CERTIFICATE_VERIFY_FAILED" in said
    assert not world.double.asked


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"team": "other"}, "server.team: no team 'other'"),
        ({"workspace": "other"}, "has no workspace 'other'"),
    ],
)
def test_what_is_not_there_is_named(world: World, values: Any, expected: str) -> None:
    world.change("server", **values)
    assert expected in world.ask("send", 1)[1]


def test_a_class_of_another_shape_is_refused(world: World) -> None:
    world.ask("send")
    world.change(classes=[{"name": "car", "shape": "polygon"}])
    assert "'car' is polygon here and rectangle in Supervisely" in world.ask("send", 1)[1]


def test_bytes_that_are_missing_or_others_are_not_sent(world: World) -> None:
    first = world.version.entries[0]["sha256"]
    Bucket(world.s3, "images").put(first, picture(99), "image/jpeg")
    assert f"image {first} has other bytes" in world.ask("send", 1)[1]
    world.s3.delete_object(Bucket="images", Key=first)
    assert f"image {first} is missing" in world.ask("send", 1)[1]


def test_a_version_that_is_not_there_is_named(world: World) -> None:
    assert main(["send", "roads", "0" * 64], s3=world.s3) == 1
    assert "dataset roads/000" in world.capsys.readouterr().err


def test_an_empty_version_is_an_empty_dataset(world: World) -> None:
    head = {"kind": datasets.KIND, "name": "roads", "count": 0}
    content = json.dumps(head).encode() + b"\n"
    digest = hashlib.sha256(content).hexdigest()
    world.store.put(datasets.key_of("roads", digest), content, datasets.CONTENT_TYPE)
    world.version = datasets.show(world.store, "roads", digest)
    assert world.ask("send")[0] == {"images": 0, "added": 0, "uploaded": 0}
    assert world.ask("fetch")[0]["version"] is None
    assert world.ask("reconcile")[0]["equal"]


# -- fetch -----------------------------------------------------------------------------------------


def test_finished_annotations_are_a_new_version(world: World) -> None:
    world.ask("send")
    assert world.ask("fetch")[0] == {
        "version": None,
        "new": False,
        "images": 0,
        "annotations": 0,
        "unfinished": COUNT,
    }
    done = annotated(world)
    found, _ = world.ask("fetch")
    counts = {"images": 3, "annotations": 3, "unfinished": COUNT - 3}
    assert found == {"version": found["version"], "new": True, **counts}
    made = datasets.show(world.store, "roads", found["version"])
    assert made.parent == world.version.digest
    assert [f"{entry['sha256']}.jpg" for entry in made.entries] == done
    images = Bucket(world.s3, "images")
    assert datasets.verify(world.store, images, "roads", made.digest) == []
    assert made.annotations is not None and made.annotations["format"] == "coco"

    coco = json.loads(world.store.get(made.annotations["key"]))
    jsonschema.validate(coco, COCO)
    assert {one["id"]: one["name"] for one in coco["categories"]} == {
        1: "car",
        2: "mark",
        3: "road",
    }
    assert [one["file_name"] for one in coco["images"]] == [e["key"] for e in made.entries]
    assert {(one["width"], one["height"]) for one in coco["images"]} == {(WIDTH, HEIGHT)}
    by_class = {one["category_id"]: one for one in coco["annotations"]}
    # The SDK counts to the last pixel's index, so its boxes are a pixel short of what was drawn.
    assert by_class[1]["bbox"] == [5, 6, 14, 23]
    assert len(by_class[3]["segmentation"][0]) == 6
    # The mask of two rows by three columns, in runs down the columns of the whole image.
    assert by_class[2]["area"] == 6
    assert by_class[2]["segmentation"]["size"] == [HEIGHT, WIDTH]
    runs = by_class[2]["segmentation"]["counts"]
    assert sum(runs) == HEIGHT * WIDTH and sum(runs[1::2]) == 6
    assert runs[0] == 11 * HEIGHT + 13
    assert {one["image_id"] for one in coco["annotations"]} == {1, 2}


def test_nothing_new_is_no_new_version(world: World) -> None:
    world.ask("send")
    names = annotated(world)
    first, _ = world.ask("fetch")
    for labels in world.double.labels.values():
        labels.reverse()  # the order of an answer says nothing
    before = contents(world)
    assert world.ask("fetch")[0] == {**first, "new": False}
    assert contents(world) == before
    world.double.label(names[2], "car", BOX, "rectangle")
    second, _ = world.ask("fetch")
    assert second["new"] and second["version"] != first["version"]
    assert datasets.show(world.store, "roads", second["version"]).parent == world.version.digest


@pytest.mark.parametrize(
    ("name", "shape", "geometry", "expected"),
    [
        ("lorry", "rectangle", BOX, "class 'lorry' is not declared"),
        ("car", "line", RING, "car is a line, which COCO has not"),
    ],
)
def test_no_label_is_lost_in_silence(
    world: World, name: str, shape: str, geometry: Any, expected: str
) -> None:
    world.ask("send")
    done = annotated(world)
    world.double.label(done[2], name, geometry, shape)
    before = list(world.store.keys())
    _, said = world.ask("fetch", 1)
    assert expected in said and "declare it under classes" in said
    assert list(world.store.keys()) == before
    found, _ = world.ask("reconcile")
    assert expected in found["refused_labels"][0]
    assert len(found["newly_finished"]) == 3


def test_what_was_never_sent_is_not_fetched(world: World) -> None:
    assert "never sent; send it first" in world.ask("fetch", 1)[1]


def test_a_fetch_that_ends_half_way_is_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask("send")
    annotated(world)
    real, left = Bucket.put, 0

    def put(self: Bucket, key: str, content: bytes, content_type: str) -> None:
        nonlocal left
        if left == 0:
            raise OSError("the store is gone")
        left -= 1
        real(self, key, content, content_type)

    monkeypatch.setattr(Bucket, "put", put)
    for allowed in range(3):
        left = allowed
        assert "the store is gone" in world.ask("fetch", 1)[1]
    left = 3
    found, _ = world.ask("fetch")
    assert [digest for _, digest in datasets.versions(world.store) if digest == found["version"]]
    images = Bucket(world.s3, "images")
    assert datasets.verify(world.store, images, "roads", found["version"]) == []


# -- reconcile -------------------------------------------------------------------------------------


def test_differences_are_named_both_ways(world: World) -> None:
    found, _ = world.ask("reconcile")
    digests = [entry["sha256"] for entry in world.version.entries]
    assert found["missing_there"] == digests and not found["equal"]
    world.ask("send")
    found, said = world.ask("reconcile")
    assert found["equal"] and "equal" in said
    done = annotated(world)
    found, _ = world.ask("reconcile")
    assert found["newly_finished"] == sorted(name.removesuffix(".jpg") for name in done)
    version = world.ask("fetch")[0]["version"]
    found, _ = world.ask("reconcile")
    assert found["equal"] and found["fetched"] == version

    double, names = world.double, world.names()
    double.label(names[0], "car", BOX, "rectangle")
    double.image(names[1])["tags"].clear()
    double.image(names[5])["hash"] = base64.b64encode(b"x" * 32).decode()
    del double.images[double.image(names[6])["id"]]
    double.image(names[7])["name"] = "holiday.jpg"
    found, said = world.ask("reconcile")
    assert found["changed_annotations"] == [digests[0]]
    assert found["no_longer_finished"] == [digests[1]]
    assert found["changed_images"] == [digests[5]]
    assert found["missing_there"] == digests[6:]
    assert found["unknown_here"] == ["holiday.jpg"]
    assert "different" in said and "holiday.jpg" in said


def test_an_image_that_was_changed_there_is_in_no_version(world: World) -> None:
    world.ask("send")
    done = annotated(world)
    world.double.image(done[0])["hash"] = base64.b64encode(b"x" * 32).decode()
    assert world.ask("fetch")[0]["images"] == 2


def test_a_changed_annotation_in_the_store_is_found(world: World) -> None:
    world.ask("send")
    annotated(world)
    made = datasets.show(world.store, "roads", world.ask("fetch")[0]["version"])
    assert made.annotations is not None
    world.store.put(made.annotations["key"], b"{}", "application/json")
    assert "its annotations have other bytes" in world.ask("reconcile", 1)[1]


def test_all_declared_versions_are_done(world: World) -> None:
    other = {"name": "rails", "digest": "0" * 64}
    sent = {"name": "roads", "digest": world.version.digest}
    world.change(versions=[other, sent])
    found, said = world.ask("run", 1)
    assert "dataset rails/000" in said
    assert found[1]["send"]["added"] == COUNT and found[1]["reconcile"]["equal"]
    world.change(versions=[sent])
    assert world.ask("run")[0][0]["send"]["added"] == 0


def test_the_token_is_in_no_environment(world: World) -> None:
    world.ask("send")
    assert TOKEN not in "".join(os.environ.values())
