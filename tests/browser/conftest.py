"""Chromium by Playwright, the site, and a page of it whose complaints are kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from rehearsal import tools
from rehearsal.errors import EstateError
from tests.browser import programs
from tests.browser.site import Site
from tests.browser.visitor import Visitor

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    tusd = tools.find(tools.catalogue()["tusd"])
    if tusd is None:
        pytest.skip("tusd is not built: ./estate tools build tusd")
    try:
        parts = programs.debian(), programs.packages(), programs.from_npm()
    except EstateError as error:
        pytest.skip(f"no browser: {error}")
    made = Site(tmp_path_factory.mktemp("site"), tusd, *parts)
    yield made
    made.close()


# Of the module, so that it ends with it: other tests have event loops of their own.
@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Browser]:
    """Chromium. Behind the launcher's own packages come those of the lock."""
    sys.path.append(str(programs.packages()))
    from playwright.sync_api import sync_playwright

    debian = programs.debian()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=debian.chromium, env=debian.chromium_environment
        )
        yield launched
        launched.close()


@pytest.fixture
def visitor(browser: Browser, site: Site, tmp_path: Path) -> Iterator[Visitor]:
    """Somebody on the page, who trusts the site."""
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(20_000)
    yield Visitor(context.new_page(), site, tmp_path)
    context.close()
