"""Cancelling an order in a real browser: with a script and without, by a double tap, and when the answer is lost."""

from typing import TYPE_CHECKING, Any

import pytest

from shop.models import StockMovement
from tests.browser.chromium import DESKTOP, PHONE, Visitor
from tests.browser.conftest import Opening
from tests.browser.test_storefront import ended_orders, open_product, orders_of, see
from tests.builders import a_sku
from tests.running import System, frozen

if TYPE_CHECKING:
    from playwright.sync_api import Page


def buy(page: "Page", sku: str, heading: str = "Confirmed. It is yours.") -> None:
    """Order one at one tap."""
    open_product(page, sku)
    page.get_by_role("button", name="Buy now").click()
    see(page, heading)


def ask_to_cancel(page: "Page") -> None:
    """Go to the question."""
    page.get_by_role("link", name="Cancel this order").click()
    see(page, "Cancel this order?")


def see_it_cancelled(page: "Page") -> None:
    """Wait until it is, not until it is about to be."""
    page.get_by_role("heading", name="Cancelled", exact=True).wait_for()


def cancellations(sku: str) -> int:
    """How often units of the SKU came back."""
    return StockMovement.objects.filter(sku=sku, kind="cancellation").count()


@pytest.mark.parametrize(
    ("screen", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")], ids=["phone, dark", "desktop, light"]
)
def test_a_buyer_cancels_an_order_without_a_barrier(
    opened: Opening, screen: dict[str, Any], scheme: str
) -> None:
    sku = a_sku(stock=3)
    visitor = opened(**screen, color_scheme=scheme)
    page = visitor.page
    buy(page, sku)

    ask_to_cancel(page)
    barriers = visitor.barriers()
    page.get_by_role("button", name="Cancel the order").click()
    see_it_cancelled(page)
    barriers += visitor.barriers()

    assert barriers == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert orders_of(sku) == [("cancelled", 1)]
    open_product(page, sku)
    page.get_by_text("Only 3 left").wait_for()


def test_who_thinks_better_of_it_keeps_the_order(page: "Page") -> None:
    sku = a_sku(stock=3)
    buy(page, sku)
    ask_to_cancel(page)

    page.get_by_role("link", name="Keep it").click()

    see(page, "Confirmed. It is yours.")
    assert orders_of(sku) == [("confirmed", 1)]


@pytest.mark.parametrize("has_script", [True, False], ids=["with a script", "without"])
def test_an_order_in_line_is_cancelled_before_the_buyer_s_eyes(
    opened: Opening, system: System, has_script: bool
) -> None:
    sku = a_sku(stock=3)
    visitor = opened(**PHONE, java_script_enabled=has_script)
    page = visitor.page

    with frozen(*system.pids("worker")):
        buy(page, sku, "Your order is in line")
        ask_to_cancel(page)
        page.get_by_role("button", name="Cancel the order").click()
        see(page, "Your order is being cancelled")
        barriers = visitor.barriers() if has_script else []

    see_it_cancelled(page)
    assert barriers == []
    assert ended_orders(sku, 1) == [("cancelled", 1)]


def test_a_second_window_that_shows_the_order_in_line_hears_of_its_cancelling(
    opened: Opening, system: System
) -> None:
    page, sku = opened().page, a_sku(stock=3)
    with frozen(*system.pids("worker")):
        buy(page, sku, "Your order is in line")
        second = page.context.new_page()
        second.goto(page.url)
        see(second, "Your order is in line")

        ask_to_cancel(page)
        page.get_by_role("button", name="Cancel the order").click()

        see(second, "Your order is being cancelled")
    see_it_cancelled(second)


def test_a_double_tap_cancels_once(page: "Page") -> None:
    sku = a_sku(stock=3)
    buy(page, sku)
    ask_to_cancel(page)

    page.get_by_role("button", name="Cancel the order").dblclick()

    see_it_cancelled(page)
    assert cancellations(sku) == 1


def test_a_wish_whose_answer_is_lost_is_sent_again_and_cancels_once(visitor: Visitor) -> None:
    page = visitor.page
    sku = a_sku(stock=3)
    buy(page, sku)
    ask_to_cancel(page)
    lost = []

    def lose_the_first_answer(route: Any) -> None:
        if not lost:
            lost.append(route.fetch(max_redirects=0).status)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/cancel", lose_the_first_answer)
    page.get_by_role("button", name="Cancel the order").click()

    see_it_cancelled(page)
    assert lost == [200]
    assert cancellations(sku) == 1
    visitor.forgive("ERR_CONNECTION_RESET")


def test_the_way_back_after_cancelling_leads_to_the_cancelled_order(page: "Page") -> None:
    sku = a_sku(stock=3)
    buy(page, sku)
    ask_to_cancel(page)
    page.get_by_role("button", name="Cancel the order").click()
    see_it_cancelled(page)

    page.go_back()

    see_it_cancelled(page)
    assert cancellations(sku) == 1
