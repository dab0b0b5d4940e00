"""All that is asked, by one name; what an environment does not have says so when it is asked."""

from __future__ import annotations

from typing import NoReturn

from services.console.backends import Backend, catalogue, documents, kafka, objects
from services.console.datasets import Datasets
from services.console.problems import Away
from services.console.settings import Limits, Settings, Uploads


class Lake:
    """The backends of one environment."""

    def __init__(self, settings: Settings) -> None:
        trust, limits = str(settings.trust), settings.limits
        seconds = limits.backend_timeout_s
        self.limits: Limits = limits
        self.uploads: Uploads | None = settings.uploads
        self._kafka: kafka.KafkaLake | None = None
        self._documents: documents.DocumentLake | None = None
        self._objects: objects.ObjectLake | None = None
        self._catalogue: catalogue.ImageCatalogue | None = None
        if settings.kafka is not None:
            self._kafka = kafka.KafkaLake(settings.kafka, trust, seconds)
        if settings.documents is not None:
            self._documents = documents.DocumentLake(settings.documents, trust, seconds)
        if settings.objects is not None:
            self._objects = objects.ObjectLake(settings.objects, trust, seconds)
        if settings.catalogue is not None:
            self._catalogue = catalogue.ImageCatalogue(settings.catalogue, trust, seconds)

    @property
    def declared(self) -> list[Backend]:
        """The backends that this environment has."""
        found: tuple[Backend | None, ...] = (
            self._kafka,
            self._documents,
            self._objects,
            self._catalogue,
        )
        return [one for one in found if one is not None]

    @property
    def kafka(self) -> kafka.KafkaLake:
        """Kafka. Raises Away where there is none; so do the others."""
        return self._kafka or _lacks(kafka.NAME)

    @property
    def documents(self) -> documents.DocumentLake:
        """The documents."""
        return self._documents or _lacks(documents.NAME)

    @property
    def objects(self) -> objects.ObjectLake:
        """The object store."""
        return self._objects or _lacks(objects.NAME)

    @property
    def datasets(self) -> Datasets:
        """The dataset versions, which are in the object store."""
        return Datasets(self.objects)

    @property
    def catalogue(self) -> catalogue.ImageCatalogue:
        """The catalogue."""
        return self._catalogue or _lacks(catalogue.NAME)

    def close(self) -> None:
        """End what is connected."""
        if self._catalogue is not None:
            self._catalogue.close()


def _lacks(name: str) -> NoReturn:
    raise Away(name, f"this environment has no {name}")
