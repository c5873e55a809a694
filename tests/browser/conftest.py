"""The running system in a real browser: one browser and one system for all of these tests, a fresh window for each."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import chromium
from tests.browser.chromium import DESKTOP, Visitor
from tests.running import System

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Opening = Callable[..., Visitor]


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Browser]":
    """The browser."""
    with chromium.browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(scope="package")
def system(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Web, worker and scheduler, running on an empty Redis."""
    from shop.stores import redis_client

    redis_client().flushdb()
    with System(tmp_path_factory.mktemp("system")) as running:
        yield running.start()


@pytest.fixture
def opened(browser: "Browser", system: System) -> Iterator[Opening]:
    """Opens windows. When the test ends, nothing may have gone wrong in any of them."""
    visitors: list[Visitor] = []

    def open_window(**options: Any) -> Visitor:
        visitors.append(Visitor(browser, system.url, **(options or DESKTOP)))
        return visitors[-1]

    yield open_window
    for visitor in visitors:
        visitor.close()
    assert [fault for visitor in visitors for fault in visitor.faults] == []


@pytest.fixture
def visitor(opened: Opening) -> Visitor:
    """A window on a desktop."""
    return opened()


@pytest.fixture
def page(visitor: Visitor) -> "Page":
    """The page in the window on a desktop."""
    return visitor.page
