"""Supervisely as this service uses it: one project, a dataset in it for each version sent."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from services.annotation.settings import Sent, Settings
from services.pipeline.datasets import Version
from services.pipeline.settings import secret

SHAPES = ("rectangle", "polygon", "bitmap")


class Trouble(Exception):
    """What keeps the service from its work, in one line with the way out."""


@contextmanager
def _said(settings: Settings) -> Iterator[None]:
    """What the SDK raises, as one line without its answer's headers or the token."""
    server = settings.server
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise Trouble(
                f"server.token: {server.url} refuses the token in {server.token} ({status}); "
                "put a token of a member of the team there"
            ) from None
        raise Trouble(f"server.url: {server.url} answers {status}: {_short(error)}") from None
    except (requests.RequestException, RuntimeError) as error:
        raise Trouble(
            f"server.url: {server.url} gave no answer in {server.attempts} attempts: "
            f"{_short(error)}; is it reachable, and does server.ca verify it? Its log is above"
        ) from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@dataclass(frozen=True)
class Place:
    """Where a version is: the project with its classes and tags, and the dataset."""

    project: int
    dataset: int
    meta: Any


class Supervisely:
    """The server. Methods raise Trouble."""

    def __init__(self, settings: Settings) -> None:
        if settings.server.ca is not None:
            # The SDK has no parameter for it; its HTTP libraries read these.
            os.environ["REQUESTS_CA_BUNDLE"] = str(settings.server.ca)
            os.environ["SSL_CERT_FILE"] = str(settings.server.ca)
        import supervisely

        self._sly, self._settings = supervisely, settings
        supervisely.logger.setLevel(logging.WARNING)
        for handler in supervisely.logger.handlers:  # it is the root logger; others may be there
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stderr
        try:
            token = secret(settings.server.token)
        except OSError as error:
            raise Trouble(f"server.token: {error}; mount the secret there") from None
        self._api = supervisely.Api(
            settings.server.url,
            token,
            retry_count=settings.server.attempts,
            retry_sleep_sec=settings.server.wait_s,
            ignore_task_id=True,
        )

    def find(self, version: Version) -> Place | None:
        """Where a version is; None when it was never sent."""
        with _said(self._settings):
            project = self._project()
            if project is None:
                return None
            dataset = self._api.dataset.get_info_by_name(project, named(version))
            return Place(project, dataset.id, self._meta(project)) if dataset is not None else None

    def make(self, version: Version) -> Place:
        """The same, made where it lacks; the declared classes are added to the project's own."""
        with _said(self._settings):
            project = self._project()
            if project is None:
                made = self._api.project.create(self._workspace(), self._settings.server.project)
                project = made.id
            meta = self._declared(project)
            dataset = self._api.dataset.get_or_create(
                project, named(version), description=f"{version.name} {version.digest}"
            )
            return Place(project, dataset.id, meta)

    def images(self, place: Place) -> list[Any]:
        """What the dataset holds, as the SDK describes it."""
        with _said(self._settings):
            return list(self._api.image.get_list(place.dataset, force_metadata_for_links=False))

    def known(self, hashes: Sequence[str]) -> set[str]:
        """Those of the hashes whose bytes the server has already."""
        with _said(self._settings):
            return set(self._api.image.check_existing_hashes(list(hashes)))

    def add(self, place: Place, names: Sequence[str], hashes: Sequence[str]) -> None:
        """Put images into the dataset whose bytes are there. What is there stays as it is."""
        with _said(self._settings):
            self._api.image.upload_hashes(
                place.dataset, list(names), list(hashes), conflict_resolution="skip"
            )

    def upload(self, place: Place, names: Sequence[str], files: Sequence[Path]) -> None:
        """Send images and put them into the dataset."""
        attempts, wait_s = self._settings.server.attempts, self._settings.server.wait_s
        with _said(self._settings):
            for attempt in range(attempts):
                try:
                    self._upload_once(place, names, files)
                    return
                except requests.exceptions.RetryError:
                    if attempt + 1 == attempts:
                        raise
                    # The SDK has waited once itself, as long as a Retry-After asked for.
                    time.sleep(min(wait_s * (2**attempt - 1), 60))

    def _upload_once(self, place: Place, names: Sequence[str], files: Sequence[Path]) -> None:
        # The SDK's own second attempt would send a body that the first one has used up (6.74.51),
        # and the server would wait for it. A new call makes a new body, of what is still lacking.
        self._api.retry_count = 1
        try:
            self._api.image.upload_paths(
                place.dataset,
                list(names),
                [str(file) for file in files],
                conflict_resolution="skip",
            )
        except ValueError as error:
            raise Trouble(f"images {names[0]} and after: {_short(error)}") from None
        finally:
            self._api.retry_count = self._settings.server.attempts

    def annotations(self, place: Place, images: Sequence[Any]) -> list[dict[str, Any]]:
        """The annotation of each image, in order, as JSON of Supervisely."""
        context = self._sly.ApiContext(
            self._api, project_id=place.project, dataset_id=place.dataset, project_meta=place.meta
        )
        with _said(self._settings), context:
            ids = [image.id for image in images]
            return list(self._api.annotation.download_json_batch(place.dataset, ids))

    def parsed(self, place: Place, annotation: dict[str, Any]) -> Any:
        """The SDK's own Annotation."""
        return self._sly.Annotation.from_json(annotation, place.meta)

    def is_finished(self, place: Place, image: Any) -> bool:
        """Whether the image bears the tag that says so."""
        tags = self._sly.TagCollection.from_api_response(
            [dict(tag) for tag in image.tags or []], place.meta.tag_metas
        )
        return tags.get(self._settings.finished) is not None

    # -- team, workspace, project ------------------------------------------------------------------

    def _workspace(self) -> int:
        server = self._settings.server
        team = self._api.team.get_info_by_name(server.team)
        if team is None:
            raise Trouble(f"server.team: no team {server.team!r} that the token may see; make it")
        space = self._api.workspace.get_info_by_name(team.id, server.workspace)
        if space is None:
            raise Trouble(
                f"server.workspace: team {server.team} has no workspace {server.workspace!r}; "
                "make it there"
            )
        return int(space.id)

    def _project(self) -> int | None:
        name = self._settings.server.project
        found = self._api.project.get_info_by_name(self._workspace(), name)
        return int(found.id) if found is not None else None

    def _meta(self, project: int) -> Any:
        return self._sly.ProjectMeta.from_json(self._api.project.get_meta(project))

    def _declared(self, project: int) -> Any:
        sly, meta = self._sly, self._meta(project)
        geometry = {"rectangle": sly.Rectangle, "polygon": sly.Polygon, "bitmap": sly.Bitmap}
        lacking = []
        for one in self._settings.classes:
            there = meta.get_obj_class(one.name)
            if there is None:
                lacking.append(sly.ObjClass(one.name, geometry[one.shape]))
            elif there.geometry_type is not geometry[one.shape]:
                raise Trouble(
                    f"classes: {one.name!r} is {one.shape} here and "
                    f"{there.geometry_type.geometry_name()} in Supervisely; make them equal"
                )
        tag = meta.get_tag_meta(self._settings.finished)
        if not lacking and tag is not None:
            return meta
        meta = meta.add_obj_classes(lacking)
        if tag is None:
            meta = meta.add_tag_meta(sly.TagMeta(self._settings.finished, sly.TagValueType.NONE))
        self._api.project.update_meta(project, meta)
        return self._meta(project)


def named(version: Version) -> str:
    """The dataset of a version."""
    return Sent(name=version.name, digest=version.digest).dataset
