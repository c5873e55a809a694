"""The machine's own Chromium, driven through Playwright, and what a browser noticed while a test used it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Request, Response, sync_playwright

from tests.programs import CHROMIUM

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}

#: Nothing of a browser's own business: no updates, no greetings, no calls home.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser that leaves nothing behind outside `folder`."""
    # While Playwright's synchronous interface is in use, this thread has a running event loop, in which Django refuses
    # to ask the database, lest it hold up other requests. Here are none.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    try:
        with sync_playwright() as playwright:
            started = playwright.chromium.launch(
                executable_path=CHROMIUM.installed,
                args=list(_ARGUMENTS),
                env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
            )
            yield started
            started.close()
    finally:
        os.environ.pop("DJANGO_ALLOW_ASYNC_UNSAFE")
        if before is not None:
            os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = before


class Visitor:
    """One person's browser window: cookies of its own, and a list of everything that went wrong in it.

    `faults`: console errors (violations of the content security policy among them), requests that failed, answers of 400
    and more. A test that causes some on purpose forgives them by what they say.
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.faults: list[str] = []
        self.context: BrowserContext = browser.new_context(base_url=url, **options)
        self.context.set_default_timeout(10_000)
        self.context.on("console", lambda message: self._note(message.type == "error", message.text))
        self.context.on("weberror", lambda error: self._note(True, str(error.error)))
        self.context.on("requestfailed", self._failed)
        self.context.on("response", self._answered)
        self.page: Page = self.context.new_page()

    def _note(self, is_fault: bool, text: str) -> None:
        if is_fault:
            self.faults.append(text)

    def _failed(self, request: Request) -> None:
        # A page that is left takes its open requests with it.
        self._note(
            request.failure != "net::ERR_ABORTED", f"{request.method} {request.url}: {request.failure}"
        )

    def _answered(self, response: Response) -> None:
        self._note(response.status >= 400, f"{response.request.method} {response.url}: {response.status}")

    def forgive(self, pattern: str) -> None:
        """Take faults for intended. Fails where there were none: then the test does not test what it says."""
        intended = [fault for fault in self.faults if re.search(pattern, fault)]
        assert intended, f"no fault is like {pattern!r}: {self.faults}"
        self.faults = [fault for fault in self.faults if fault not in intended]

    def barriers(self) -> list[str]:
        """What axe finds serious or critical on the present page, one line for each rule."""
        # Without `preload`: axe would write style sheets that import others into the page, which the policy refuses.
        found = (
            Axe()
            .run(self.page, options={"resultTypes": ["violations"], "preload": False})
            .response["violations"]
        )
        return [
            f"{rule['id']}: {rule['help']}: {[node['target'] for node in rule['nodes']]}"
            for rule in found
            if rule["impact"] in {"serious", "critical"}
        ]

    def close(self) -> None:
        """Close the window."""
        self.context.close()
