"""The live board in a browser: it moves while orders come, can be held still, and its switches work."""

import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from django.contrib.auth.models import User

from shop import pauses
from shop.pauses import Part
from shop.stores import redis_client
from tests.browser.chromium import DESKTOP, PHONE, Visitor
from tests.browser.conftest import Opening
from tests.builders import a_sku
from tests.running import System

if TYPE_CHECKING:
    from playwright.sync_api import Page

PASSWORD = "a long enough one"


@contextmanager
def a_sale(system: System) -> Iterator[str]:
    """Orders that come without end, for one SKU."""
    sku, is_over = a_sku(stock=20), threading.Event()

    def buy() -> None:
        while not is_over.is_set():
            system.place((sku, 1))

    buyers = [threading.Thread(target=buy) for _ in range(2)]
    for buyer in buyers:
        buyer.start()
    try:
        yield sku
    finally:
        is_over.set()
        for buyer in buyers:
            buyer.join()


def sign_in(visitor: Visitor) -> "Page":
    """The board, for somebody who may do everything."""
    name = f"browser-{uuid.uuid4().hex[:8]}"
    User.objects.create_superuser(name, password=PASSWORD)
    page = visitor.page
    page.goto("/live")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/live")
    return page


@pytest.fixture
def nothing_paused() -> Iterator[None]:
    """No pause is left when the test is over."""
    yield
    for part in Part:
        pauses.resume(redis_client(), part, who="tests")


def number(page: "Page", place: str) -> int:
    """What stands in a place."""
    digits = re.sub(r"\D", "", page.locator(f"[data-place='{place}']").inner_text())
    return int(digits or 0)


def wait_in(page: "Page", condition: Callable[[], bool], *, timeout_s: float = 15) -> None:
    """Wait for a condition while the page goes on: Playwright's own thread must not be held up."""
    for _ in range(round(timeout_s / 0.05)):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"did not come true within {timeout_s} s")


@pytest.mark.parametrize(
    ("scheme", "window"),
    [
        pytest.param("light", PHONE, id="light-phone"),
        pytest.param("dark", DESKTOP, id="dark-desktop"),
        pytest.param("light", DESKTOP, id="light-desktop", marks=pytest.mark.depth),
        pytest.param("dark", PHONE, id="dark-phone", marks=pytest.mark.depth),
    ],
)
def test_during_a_sale_numbers_and_charts_move_and_nobody_meets_a_barrier(
    opened: Opening, system: System, window: dict[str, object], scheme: str
) -> None:
    visitor = opened(**window, color_scheme=scheme)
    page = sign_in(visitor)
    before, lines = number(page, "confirmed:_total"), page.locator(".chart polyline")

    with a_sale(system) as sku:
        wait_in(page, lambda: number(page, "confirmed:_total") > before)
        page.get_by_role("rowheader", name=sku).wait_for()
        drawn = lines.first.get_attribute("points")
        page.wait_for_function(
            "drawn => document.querySelector('.chart polyline').getAttribute('points') !== drawn", arg=drawn
        )

    assert page.locator(".chart svg").first.get_attribute("aria-label") != "Orders per second"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "nothing is wider than the window"
    )
    assert visitor.barriers() == []


def test_a_board_that_is_held_still_does_not_change_until_it_goes_on(
    visitor: Visitor, system: System
) -> None:
    page = sign_in(visitor)
    time = page.locator("[data-place='time']")
    page.get_by_role("button", name="Hold still").click()
    page.wait_for_load_state("networkidle")
    held_at = time.inner_text()

    with a_sale(system):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(2_500)
        assert (time.inner_text(), asked) == (held_at, [])
        page.get_by_role("button", name="Go on").click()
        page.wait_for_function(
            "held => document.querySelector(\"[data-place='time']\").textContent !== held", arg=held_at
        )


@pytest.mark.usefixtures("nothing_paused")
def test_intake_is_paused_with_a_reason_and_resumed_by_hand(visitor: Visitor, system: System) -> None:
    page = sign_in(visitor)
    page.get_by_text("Pause intake …").click()
    page.get_by_label("Why?").first.fill("stocktaking")
    assert visitor.barriers() == []
    page.get_by_role("button", name="Pause intake now").click()

    page.get_by_text("Intake is paused.").first.wait_for()
    page.get_by_text(": stocktaking.").wait_for()
    assert system.place((a_sku(), 1)).body["type"] == "intake-paused"
    assert visitor.barriers() == []

    page.get_by_text("Resume intake …").click()
    page.get_by_role("button", name="Resume intake now").click()
    page.get_by_text("Intake goes on.").wait_for()
    assert system.place((a_sku(), 1)).status == 202


@pytest.mark.usefixtures("nothing_paused")
def test_a_pause_without_a_reason_is_not_sent(visitor: Visitor) -> None:
    page = sign_in(visitor)
    page.get_by_text("Pause fulfilment …").click()
    page.get_by_role("button", name="Pause fulfilment now").click()

    assert page.evaluate("document.activeElement.name") == "reason"
    assert pauses.current(redis_client()) == {}


@pytest.mark.usefixtures("nothing_paused")
def test_a_board_shows_what_somebody_else_has_switched(visitor: Visitor) -> None:
    page = sign_in(visitor)

    pauses.pause(redis_client(), Part.FULFILMENT, who="Grace", reason="the disk is full")

    page.get_by_text("Fulfilment is paused", exact=True).wait_for()
    page.get_by_text("by Grace: the disk is full").first.wait_for()


def test_a_board_that_hears_nothing_says_so_and_goes_on_when_it_can(visitor: Visitor) -> None:
    page = sign_in(visitor)
    silence = page.get_by_text("these are old numbers")
    page.locator(".chart polyline").first.wait_for()
    visitor.context.set_offline(True)
    silence.wait_for()

    visitor.context.set_offline(False)
    silence.wait_for(state="hidden", timeout=20_000)
    visitor.forgive("ERR_INTERNET_DISCONNECTED")


def test_without_script_the_page_shows_the_present_numbers(opened: Opening, system: System) -> None:
    visitor = opened(**DESKTOP, java_script_enabled=False)
    page = sign_in(visitor)

    assert page.locator("meta[http-equiv='refresh']").count() == 1
    assert re.fullmatch(r"[\d,]+", page.locator("[data-place='open']").inner_text())
    assert not page.locator("#charts").is_visible()
    assert not page.get_by_role("button", name="Hold still").is_visible()
