"""What a person does on the upload page, and what he sees there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.site import Site, until

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, FileChooser, Page, Request

TOKEN, FILES = "Token", "Choose images"
"""The labels of the controls."""


class Visitor:
    """The page of a site, opened; `complaints` are the console's warnings and errors."""

    def __init__(self, page: Page, site: Site, folder: Path) -> None:
        self.page, self.site, self._folder = page, site, folder
        self.complaints: list[str] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        # From the beginning: a chooser that opens just after one listens may be missed.
        self.choosers: list[FileChooser] = []
        page.on("filechooser", lambda one: self.choosers.append(one))
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._requested)
        self.answer = page.goto(site.url)

    def _said(self, one: ConsoleMessage) -> None:
        # The page asks until there is a receipt, and Chromium notes each answer that there is none.
        expected = "/receipts/" in one.location["url"] and "404" in one.text
        if one.type in ("warning", "error") and not expected:
            self.complaints.append(one.text)

    def _requested(self, request: Request) -> None:
        if "/files/" in request.url:
            self.requests.append((request.method, request.headers))

    def file(self, name: str, content: bytes) -> Path:
        """A file on this person's disk."""
        path = self._folder / name
        path.write_bytes(content)
        return path

    def give_token(self, token: str | None = None) -> None:
        self.page.get_by_label(TOKEN).fill(self.site.token() if token is None else token)

    def focus_is_on(self, label: str) -> bool:
        """Whether the control of this label has the focus."""
        one = self.page.get_by_label(label)
        return bool(one.evaluate("one => one === document.activeElement"))

    def choose(self, *paths: Path) -> None:
        self.page.get_by_label(FILES).set_input_files(paths)

    def sees(self, name: str, state: str, seconds: float = 20) -> None:
        """Wait until the newest row of a file says this."""
        row = self.page.get_by_role("row").filter(has_text=name).last
        self.waits_until(lambda: state in row.inner_text(), lambda: row.inner_text(), seconds)

    def send_at(self, bytes_per_second: int) -> None:
        """Have the browser's network send no faster; -1 ends that."""
        session = self.page.context.new_cdp_session(self.page)
        limits = {"offline": False, "latency": 0, "downloadThroughput": -1}
        session.send(
            "Network.emulateNetworkConditions", {**limits, "uploadThroughput": bytes_per_second}
        )

    def waits_until(
        self, true: Callable[[], bool], what: Callable[[], str], seconds: float = 20
    ) -> None:
        """Wait for something of the site, while the page goes on; `what` says what is instead."""
        until(true, what, seconds=seconds, wait=lambda s: self.page.wait_for_timeout(s * 1000))

    def offsets(self) -> list[int]:
        """Where each request with bytes began."""
        return [int(of["upload-offset"]) for method, of in self.requests if method == "PATCH"]
