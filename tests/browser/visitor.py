"""What a person does on the upload page, and what he sees there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.browser.site import Site, until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page, Request


class Visitor:
    """The page of a site, opened; `complaints` are the console's warnings and errors."""

    def __init__(self, page: Page, site: Site, folder: Path) -> None:
        self.page, self.site, self._folder = page, site, folder
        self.complaints: list[str] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        page.on("console", lambda one: self._complained(one.type, one.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._requested)
        self.answer = page.goto(site.url)

    def _complained(self, kind: str, text: str) -> None:
        if kind in ("warning", "error"):
            self.complaints.append(text)

    def _requested(self, request: Request) -> None:
        if "/files/" in request.url:
            self.requests.append((request.method, request.headers))

    def file(self, name: str, content: bytes) -> Path:
        """A file on this person's disk."""
        path = self._folder / name
        path.write_bytes(content)
        return path

    def give_token(self, token: str | None = None) -> None:
        self.page.get_by_label("Token").fill(self.site.token() if token is None else token)

    def choose(self, *paths: Path) -> None:
        self.page.get_by_label("Choose images").set_input_files(paths)

    def sees(self, name: str, state: str, seconds: float = 20) -> None:
        """Wait until the row of a file says this."""
        row = self.row(name).last
        row.get_by_role("cell").filter(has_text=state).wait_for(timeout=seconds * 1000)

    def row(self, name: str) -> Locator:
        return self.page.get_by_role("row").filter(has_text=name)

    def send_at(self, bytes_per_second: int) -> None:
        """Have the browser's network send no faster; -1 ends that."""
        session = self.page.context.new_cdp_session(self.page)
        limits = {"offline": False, "latency": 0, "downloadThroughput": -1}
        session.send(
            "Network.emulateNetworkConditions", {**limits, "uploadThroughput": bytes_per_second}
        )

    def waits_until(self, true: Any, what: str) -> None:
        """Wait for something of the site, while the page goes on."""
        until(true, what, wait=lambda s: self.page.wait_for_timeout(s * 1000))

    def offsets(self) -> list[int]:
        """Where each request with bytes began."""
        return [int(of["upload-offset"]) for method, of in self.requests if method == "PATCH"]
