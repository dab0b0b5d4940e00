from __future__ import annotations

import copy
from typing import Any

from components.datalake.mongodb_users import credentials, matches, reconcile


class Collection:
    """What the script uses of pymongo's collection."""

    def __init__(self, *documents: dict[str, Any]) -> None:
        self.kept = {one["_id"]: one for one in documents}

    def find(self) -> list[dict[str, Any]]:
        return copy.deepcopy(list(self.kept.values()))

    def replace_one(self, key: dict[str, Any], document: dict[str, Any], *, upsert: bool) -> None:
        assert upsert
        self.kept[key["_id"]] = {**key, **document}

    def delete_one(self, key: dict[str, Any]) -> None:
        del self.kept[key["_id"]]


def test_credentials_are_those_of_the_standard() -> None:
    """The example of RFC 7677: user `user`, password `pencil`."""
    salt = b"[m\x99h\x9d\x125\x8e\xec\xa0K\x14\x126\xfa\x81"
    made = credentials("pencil", salt, 4096)
    assert made["salt"] == "W22ZaJ0SNY7soEsUEjb6gQ=="
    assert made["storedKey"] == "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
    assert made["serverKey"] == "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="


def test_users_are_made_changed_and_removed() -> None:
    users = Collection({"_id": "admin.gone", "user": "gone"}, {"_id": "admin.odd", "user": 1})
    assert reconcile(users, {"one": "a", "odd": "b"}) == ["one", "odd", "admin.gone (removed)"]
    assert set(users.kept) == {"admin.one", "admin.odd"}
    assert users.kept["admin.one"]["db"] == "admin" and matches(users.kept["admin.one"], "a")
    assert not matches(users.kept["admin.one"], "b")
    before = copy.deepcopy(users.kept)
    assert reconcile(users, {"one": "a", "odd": "b"}) == []
    assert users.kept == before
    assert reconcile(users, {"one": "new", "odd": "b"}) == ["one"]
    assert matches(users.kept["admin.one"], "new")
