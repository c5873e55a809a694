"""What buyers see while the shop takes no orders, and that theirs is placed as soon as it does."""

from collections.abc import Iterator

import pytest

from shop import pauses
from shop.pauses import Part
from shop.stores import redis_client
from tests.browser.chromium import DESKTOP, Visitor
from tests.browser.conftest import Opening
from tests.browser.test_storefront import add, ended_orders, orders_of, place_order, see
from tests.builders import a_sku


@pytest.fixture
def paused() -> Iterator[None]:
    """Intake is paused."""
    pauses.pause(redis_client(), Part.INTAKE, who="tests", reason="stocktaking")
    yield
    pauses.resume(redis_client(), Part.INTAKE, who="tests")


@pytest.mark.usefixtures("paused")
def test_a_buyer_without_script_is_told_and_tries_again(opened: Opening) -> None:
    visitor, sku = opened(**DESKTOP, java_script_enabled=False), a_sku(stock=5)
    page = visitor.page
    add(page, sku, 2)
    place_order(page)
    see(page, "We take no orders at present")
    assert orders_of(sku) == []

    pauses.resume(redis_client(), Part.INTAKE, who="tests")
    page.get_by_role("button", name="Try again").click()

    assert ended_orders(sku, 1) == [("confirmed", 2)]
    visitor.forgive("503")


@pytest.mark.usefixtures("paused")
def test_a_buyer_s_order_is_placed_by_itself_when_the_shop_goes_on(visitor: Visitor) -> None:
    page, sku = visitor.page, a_sku(stock=5)
    add(page, sku, 2)
    place_order(page)
    page.get_by_text("We take no orders at present.").last.wait_for()

    pauses.resume(redis_client(), Part.INTAKE, who="tests")

    page.get_by_role("heading", name="Confirmed. It is yours.").wait_for(timeout=25_000)
    assert orders_of(sku) == [("confirmed", 2)]
    visitor.forgive("503")
