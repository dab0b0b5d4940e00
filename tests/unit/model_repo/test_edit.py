"""An edit of `model.yaml` changes what it is to change, and no other character."""

from __future__ import annotations

import pytest

from model_repo import edit
from model_repo.declared import Place, Served, parse
from model_repo.oci import OciError

D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64
LOCAL, ONPREM = Place("environments", "local"), Place("environments", "onprem")
PRESS = Place("edge_groups", "press")


def become(text: str, **changes: Served) -> str:
    places = {"local": LOCAL, "onprem": ONPREM, "press": PRESS}
    wanted = {places[name]: served for name, served in changes.items()}
    return edit.edited(text.encode(), wanted, "model.yaml").decode()


COMMENTED = f"""\
# Digits.   Kept as it is: 'quotes', "both"

serving:   {{max_batch_size:   32}}   # wide
environments:
  local: {{version: 1}}  # of the rehearsal

  # Production.
  onprem:   {{ version: 1 , digest:  {D1} }}
# the end
"""


def test_the_line_of_one_environment() -> None:
    after = become(COMMENTED, local=Served(version=12))
    assert after == COMMENTED.replace("local: {version: 1}", "local: {version: 12}")
    after = become(COMMENTED, onprem=Served(version=2, digest=D2))
    assert after == COMMENTED.replace("{ version: 1 ,", "{ version: 2 ,").replace(D1, D2)
    assert become(COMMENTED, local=Served(version=1)) == COMMENTED


def test_a_digest_where_none_was() -> None:
    after = become(COMMENTED, local=Served(version=2, digest=D2))
    new = f"local: {{version: 2, digest: {D2}}}  # of"
    assert after == COMMENTED.replace("local: {version: 1}  # of", new)


def test_a_place_that_is_new() -> None:
    after = become(COMMENTED, press=Served(version=3, digest=D1))
    line = COMMENTED.splitlines(keepends=True)[7]
    added = f"edge_groups:\n  press: {{version: 3, digest: {D1}}}\n"
    assert after == COMMENTED.replace(line, line + added)
    before = "environments:\n  local: {version: 1}  # here\n\nserving: {}\n"
    assert become(before, onprem=Served(version=2, digest=D2)) == before.replace(
        "# here\n", f"# here\n  onprem: {{version: 2, digest: {D2}}}\n"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "environments:\n  onprem:\n    # why\n    version: 1  # one\n    digest: 'D1'\n",
            "environments:\n  onprem:\n    # why\n    version: 2  # one\n    digest: D2\n",
        ),
        (
            "environments:\n    onprem:\n        version: 1 # one\n\nserving: {}\n",
            (
                "environments:\n    onprem:\n        version: 2 # one\n        digest: D2\n\n"
                "serving: {}\n"
            ),
        ),
        (
            "environments: {onprem: {digest: D1, version: 1}}",
            "environments: {onprem: {digest: D2, version: 2}}",
        ),
        ("environments: {}\n", "environments: {onprem: {version: 2, digest: D2}}\n"),
        (
            "environments: {local: {version: 1},\n  }\n",
            "environments: {local: {version: 1}, onprem: {version: 2, digest: D2},\n  }\n",
        ),
        ("{}", "{environments: {onprem: {version: 2, digest: D2}}}"),
        ("{serving: {}}", "{serving: {}, environments: {onprem: {version: 2, digest: D2}}}"),
        (
            "rollout:\n  steps:\n  - weight: 5\n    for_s: 10\n# end",
            (
                "rollout:\n  steps:\n  - weight: 5\n    for_s: 10\n"
                "environments:\n  onprem: {version: 2, digest: D2}\n# end"
            ),
        ),
        ("serving: {}", "serving: {}\nenvironments:\n  onprem: {version: 2, digest: D2}\n"),
        (
            "environments:\r\n  local: {version: 1}\r\n",
            "environments:\r\n  local: {version: 1}\r\n  onprem: {version: 2, digest: D2}\r\n",
        ),
        (
            "\ufeffenvironments:\n  # für\n  onprem: {version: 1}\n",
            "\ufeffenvironments:\n  # für\n  onprem: {version: 2, digest: D2}\n",
        ),
        (
            "---\nenvironments:\n  local: {version: 1}\n...\n",
            "---\nenvironments:\n  local: {version: 1}\n  onprem: {version: 2, digest: D2}\n...\n",
        ),
        (
            '\'environments\':\n  "onprem": {\'version\': 0x1, "digest": "D1"}\n',
            "'environments':\n  \"onprem\": {'version': 2, \"digest\": D2}\n",
        ),
    ],
)
def test_layouts(before: str, after: str) -> None:
    before, after = (text.replace("D1", D1).replace("D2", D2) for text in (before, after))
    assert become(before, onprem=Served(version=2, digest=D2)) == after
    assert become(after, onprem=Served(version=2, digest=D2)) == after, "twice is once"


def test_several_places_at_once() -> None:
    after = become(
        COMMENTED, local=Served(version=2), onprem=Served(version=2, digest=D2),
        press=Served(version=2, digest=D2),
    )  # fmt: skip
    assert {served.version for served in parse(after.encode(), "x").places().values()} == {2}


def test_what_cannot_be_edited_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OciError, match="is referred to by an alias"):
        become("environments: {local: &v {version: 1}, onprem: *v}", local=Served(version=2))
    monkeypatch.setattr(edit, "_with", lambda content, *_: content + b"# something else\n")
    with pytest.raises(OciError, match="write it by hand"):
        become(COMMENTED, local=Served(version=2))
