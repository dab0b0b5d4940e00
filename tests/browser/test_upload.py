"""The upload page in Chromium: what a person sees, and what the store has afterwards."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from services.events import ImageReceived
from tests.browser.visitor import FILES, TOKEN, Visitor
from tests.unit.services.pictures import picture

if TYPE_CHECKING:
    from playwright.sync_api import Route

MIB = 1 << 20
LARGE = picture("BMP", (2400, 1800))
"""More than two parts of the store."""


def test_the_page_loads_and_keeps_its_policy(visitor: Visitor) -> None:
    assert visitor.answer is not None
    assert "default-src 'none'" in visitor.answer.headers["content-security-policy"]
    assert visitor.page.evaluate("tus.isSupported")
    assert visitor.complaints == []
    # What the policy is for: a script in the page itself does not run.
    visitor.page.evaluate(
        "document.head.append(Object.assign(document.createElement('script'),"
        " {textContent: 'window.ran = true'}))"
    )
    assert visitor.page.evaluate("window.ran") is None
    assert "Content Security Policy" in " ".join(visitor.complaints)


def test_without_a_token_it_asks_for_one(visitor: Visitor) -> None:
    visitor.choose(visitor.file("one.png", picture("PNG")))
    visitor.page.get_by_role("status").filter(has_text="A token is needed first").wait_for()
    assert visitor.focus_is_on(TOKEN)
    assert visitor.requests == []


def test_a_token_that_is_not_good_is_refused_in_words(visitor: Visitor) -> None:
    path = visitor.file("one.png", picture("PNG"))
    header, claims, signature = visitor.site.token().split(".")
    forged = ".".join((header, claims, signature[::-1]))
    for token, words in (
        (forged, "not signed by the estate"),
        (visitor.site.token(lifetime_s=-5), "the token has expired"),
    ):
        visitor.give_token(token)
        visitor.choose(path)
        visitor.sees("one.png", words)
    assert [method for method, _ in visitor.requests] == ["POST", "POST"]


def test_images_are_sent_and_their_receipts_shown(visitor: Visitor) -> None:
    good, other = picture("PNG", seed=1), picture("JPEG", seed=2)
    visitor.give_token()
    visitor.choose(
        visitor.file("gut ü.png", good),
        visitor.file("other.jpg", other),
        visitor.file("fake.png", other),
        visitor.file("notes.txt", b"no image"),
    )
    visitor.sees("gut ü.png", "received")
    visitor.sees("other.jpg", "received")
    visitor.sees("fake.png", "quarantined: wrong-type")
    visitor.sees("notes.txt", "quarantined: ")
    assert {good, other} <= set(visitor.site.stored())
    names = {one.name for one in visitor.site.told.events if isinstance(one, ImageReceived)}
    assert {"gut ü.png", "other.jpg"} <= names
    bar = visitor.page.get_by_role("progressbar", name="sent of gut ü.png")
    assert bar.evaluate("one => one.value === one.max")
    assert visitor.page.evaluate("localStorage.length") == 0
    assert visitor.complaints == []


@pytest.mark.parametrize("where", ["#drop", "h1"])
def test_images_are_dropped(visitor: Visitor, where: str) -> None:
    dropped = visitor.page.evaluate_handle(
        "() => { const all = new DataTransfer();"
        " all.items.add(new File(['x'], 'dropped.png', {type: 'image/png'})); return all; }"
    )
    visitor.give_token()
    event = {"dataTransfer": dropped, "bubbles": True, "cancelable": True}
    visitor.page.locator(where).dispatch_event("drop", event)
    visitor.sees("dropped.png", "quarantined: ")


def test_what_a_server_failed_at_is_sent_again(visitor: Visitor) -> None:
    failed: list[str] = []

    def fails_once(route: Route) -> None:
        if route.request.method in failed or route.request.method == "OPTIONS":
            route.continue_()
        else:
            failed.append(route.request.method)
            route.fulfill(status=503, body="busy")

    visitor.page.route("**/files/**", fails_once)
    visitor.give_token()
    visitor.choose(visitor.file("again.png", picture("PNG", seed=6)))
    visitor.sees("again.png", "received")
    assert {"POST", "PATCH"} <= set(failed)


def test_a_token_that_expires_before_the_receipt_can_be_replaced(visitor: Visitor) -> None:
    expired = f"Bearer {visitor.site.token(lifetime_s=-5)}"

    def ask_with_it(route: Route) -> None:
        route.continue_(headers={**route.request.headers, "authorization": expired})

    visitor.page.route("**/receipts/*", ask_with_it)
    visitor.give_token()
    visitor.choose(visitor.file("late.png", picture("PNG", seed=5)))
    visitor.sees("late.png", "give another token: the token has expired")
    visitor.page.unroute("**/receipts/*")
    visitor.sees("late.png", "received")


@pytest.mark.parametrize("cut", ["tusd is killed", "the page is loaded anew"])
def test_an_upload_that_is_cut_goes_on(visitor: Visitor, cut: str) -> None:
    before = len(visitor.site.stored())
    content = LARGE[:-1] + cut[:1].encode()
    path = visitor.file("large.bmp", content)
    visitor.give_token()
    visitor.send_at(6 * MIB)
    visitor.choose(path)
    visitor.waits_until(lambda: visitor.site.parts() > 0, lambda: visitor.site.log("tusd"))
    if cut == "tusd is killed":
        visitor.site.kill_tusd()
        visitor.send_at(-1)
        visitor.site.start_tusd()
    else:
        visitor.page.reload()
        visitor.give_token()
        visitor.choose(path)
    visitor.sees("large.bmp", "received", seconds=40)
    offsets = visitor.offsets()
    assert offsets[0] == 0 and offsets[-1] >= 5 * MIB
    assert [method for method, _ in visitor.requests].count("POST") == 1
    (stored,) = visitor.site.stored()[before:]
    assert hashlib.sha256(stored).digest() == hashlib.sha256(content).digest()


def test_the_keyboard_is_enough(visitor: Visitor) -> None:
    page = visitor.page
    page.keyboard.press("Tab")
    assert visitor.focus_is_on(TOKEN)
    page.keyboard.type(visitor.site.token())
    page.keyboard.press("Tab")
    assert visitor.focus_is_on(FILES)
    page.keyboard.press("Enter")
    visitor.waits_until(lambda: bool(visitor.choosers), lambda: "no window to choose files")
    visitor.choosers[0].set_files(visitor.file("keys.png", picture("PNG", seed=3)))
    visitor.sees("keys.png", "received")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(visitor: Visitor, scheme: str) -> None:
    """The rules of axe, on the page with a good result and a bad one."""
    from axe_playwright_python.sync_playwright import Axe

    visitor.page.emulate_media(color_scheme=scheme)
    visitor.give_token()
    visitor.choose(
        visitor.file("good.png", picture("PNG", seed=4)), visitor.file("bad.png", b"no image")
    )
    visitor.sees("good.png", "received")
    visitor.sees("bad.png", "quarantined: ")
    found = Axe().run(visitor.page)
    assert found.violations_count == 0, found.generate_report()
    assert found.response["passes"], "axe looked at nothing"
