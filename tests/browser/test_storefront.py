"""Buying in a real browser: on a phone and on a desktop, with bad luck of every kind, and without a script."""

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.chromium import DESKTOP, PHONE, Visitor
from tests.browser.conftest import Opening
from tests.builders import a_sku, wait_until
from tests.running import System, frozen

if TYPE_CHECKING:
    from playwright.sync_api import Page

ORDER_PAGE = re.compile(r"/orders/[0-9a-f-]{36}$")


def orders_of(sku: str) -> list[Any]:
    """What the books have of orders that name the SKU: status and units."""
    from shop.models import OrderLine

    return list(OrderLine.objects.filter(sku=sku).values_list("order__status", "quantity"))


def open_product(page: "Page", sku: str) -> None:
    page.goto(f"/products/{sku.replace(' ', '%20')}")


def add(page: "Page", sku: str, units: int) -> None:
    """Put a product into the basket."""
    open_product(page, sku)
    page.get_by_label("Quantity").fill(str(units))
    page.get_by_role("button", name="Add to basket").click()
    page.get_by_text("Added to your basket.").wait_for()


def place_order(page: "Page") -> None:
    page.get_by_role("button", name="Place order").click()


def see(page: "Page", heading: str) -> None:
    """Wait for what the page is about."""
    page.get_by_role("heading", name=heading).wait_for()


def ended_orders(sku: str, count: int) -> list[Any]:
    """The SKU's orders, when there are so many."""
    wait_until(lambda: len(orders_of(sku)) >= count, what=f"{count} orders of {sku}")
    return orders_of(sku)


@pytest.mark.parametrize(
    ("screen", "scheme"), [(PHONE, "light"), (DESKTOP, "dark")], ids=["phone, light", "desktop, dark"]
)
def test_a_basket_of_two_products_is_bought_without_a_barrier(
    opened: Opening, screen: dict[str, Any], scheme: str
) -> None:
    cup, plate = a_sku(stock=10, name="Cup"), a_sku(stock=5, name="Plate")
    visitor = opened(**screen, color_scheme=scheme)
    page = visitor.page
    barriers = []

    page.goto(f"/?q={cup}")
    barriers += visitor.barriers()
    add(page, cup, 2)
    add(page, plate, 1)
    page.get_by_role("link", name="Basket 2").or_(page.get_by_role("link", name="Basket 3")).wait_for()
    barriers += visitor.barriers()
    place_order(page)
    see(page, "Confirmed. It is yours.")
    barriers += visitor.barriers()

    assert barriers == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert orders_of(cup) == [("confirmed", 2)]
    assert orders_of(plate) == [("confirmed", 1)]
    page.goto("/orders")
    assert page.get_by_text("3 units of 2 products").is_visible()
    assert visitor.barriers() == []


def test_one_tap_buys_one(page: "Page") -> None:
    sku = a_sku(stock=3, name="Lamp of one tap")
    page.goto("/?q=one+tap")

    page.get_by_role("button", name="Buy now Lamp of one tap").click()

    see(page, "Confirmed. It is yours.")
    assert orders_of(sku) == [("confirmed", 1)]


def test_the_keyboard_alone_is_enough_to_buy(page: "Page") -> None:
    sku = a_sku(stock=3)
    open_product(page, sku)

    page.get_by_label("Quantity").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    see(page, "Confirmed. It is yours.")
    assert orders_of(sku) == [("confirmed", 1)]


def test_what_is_sold_out_cannot_be_asked_for_and_stock_is_live(system: System, page: "Page") -> None:
    gone, going = a_sku(stock=0), a_sku(stock=2)
    open_product(page, gone)
    assert page.get_by_text("Sold out").is_visible()
    assert page.get_by_role("button", name="Buy now").is_disabled()
    open_product(page, going)
    assert page.get_by_text("Only 2 left").is_visible()

    system.end_of(system.place((going, 2)).body["id"])

    page.get_by_text("Sold out").wait_for()
    assert page.get_by_role("button", name="Buy now").is_disabled()


def test_stock_is_live_on_a_page_whose_skus_fill_several_addresses(system: System, page: "Page") -> None:
    mark = f"{time.time_ns()} "
    first, *_ = [a_sku(stock=2, sku=(f"{mark}{at:02} " + 64 * "\U0001f9e6")[:64]) for at in range(12)]
    page.goto(f"/?q={mark.strip()}")
    page.get_by_text("Only 2 left").nth(11).wait_for()

    system.end_of(system.place((first, 2)).body["id"])

    page.get_by_text("Sold out", exact=True).wait_for()


def test_an_order_that_is_partly_short_is_repaired_and_confirmed(opened: Opening) -> None:
    visitor = opened(**PHONE)
    page = visitor.page
    scarce, plenty = a_sku(stock=3, name="Scarce thing"), a_sku(stock=50, name="Common thing")
    add(page, scarce, 8)
    add(page, plenty, 4)

    place_order(page)
    see(page, "There was not enough left")
    assert page.get_by_text("3 of 8 left", exact=True).is_visible()
    assert visitor.barriers() == []
    page.get_by_role("button", name="Order that for").click()

    see(page, "Confirmed. It is yours.")
    assert sorted(orders_of(scarce)) == [("confirmed", 3), ("rejected", 8)]
    assert sorted(orders_of(plenty)) == [("confirmed", 4), ("rejected", 4)]


def test_what_is_left_can_go_into_the_basket_to_be_changed(page: "Page") -> None:
    scarce = a_sku(stock=3)
    add(page, scarce, 8)
    place_order(page)
    see(page, "There was not enough left")

    page.get_by_role("button", name="Put it into the basket").click()

    assert page.get_by_label("Quantity of").input_value() == "3"
    place_order(page)
    see(page, "Confirmed. It is yours.")


def test_a_double_tap_makes_one_order(page: "Page") -> None:
    sku = a_sku(stock=10)
    add(page, sku, 1)

    page.get_by_role("button", name="Place order").dblclick()

    see(page, "Confirmed. It is yours.")
    assert orders_of(sku) == [("confirmed", 1)]


def test_without_a_script_a_form_that_is_sent_twice_makes_one_order(opened: Opening) -> None:
    page = opened(**PHONE, java_script_enabled=False).page
    sku = a_sku(stock=10)
    add(page, sku, 1)
    form = page.get_by_role("button", name="Place order").locator("xpath=ancestor::form")
    fields = {
        name: form.locator(f"input[name={name}]").input_value() for name in ("csrfmiddlewaretoken", "key")
    }
    sent = {"form": fields, "headers": {"Referer": page.url}}

    first = page.request.post("/orders", **sent)
    second = page.request.post("/orders", **sent)

    assert ORDER_PAGE.search(first.url)
    assert second.url == first.url
    assert "Nothing was ordered twice" in second.text()
    assert ended_orders(sku, 1) == [("confirmed", 1)]


def test_without_a_script_the_order_page_refreshes_itself_until_the_order_ends(
    opened: Opening, system: System
) -> None:
    page = opened(**PHONE, java_script_enabled=False).page
    sku = a_sku(stock=10)
    open_product(page, sku)

    with frozen(*system.pids("worker")):
        page.get_by_role("button", name="Buy now").click()
        see(page, "Your order is in line")
        assert page.get_by_text("You are next in line.").is_visible()

    see(page, "Confirmed. It is yours.")
    assert orders_of(sku) == [("confirmed", 1)]


def test_an_order_that_waits_survives_a_reload_and_ends_before_the_buyer_s_eyes(
    system: System, visitor: Visitor
) -> None:
    page = visitor.page
    sku = a_sku(stock=10)
    add(page, sku, 2)

    with frozen(*system.pids("worker")):
        place_order(page)
        see(page, "Your order is in line")
        page.reload()
        see(page, "Your order is in line")
        page.get_by_text("You are next in line.").wait_for()
        assert visitor.barriers() == []

    see(page, "Confirmed. It is yours.")
    assert "confirmed" in page.title().lower()
    assert page.get_by_role("status").inner_text().startswith("Confirmed. It is yours.")
    assert orders_of(sku) == [("confirmed", 2)]


def test_an_order_whose_answer_is_lost_is_sent_again_and_stays_one(visitor: Visitor) -> None:
    page = visitor.page
    sku = a_sku(stock=10)
    add(page, sku, 1)
    lost = []

    def lose_the_first_answer(route: Any) -> None:
        if not lost:
            lost.append(route.fetch(max_redirects=0).status)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/orders", lose_the_first_answer)

    place_order(page)

    see(page, "Confirmed. It is yours.")
    assert lost == [200]
    assert orders_of(sku) == [("confirmed", 1)]
    visitor.forgive("ERR_CONNECTION_RESET")


def test_a_connection_that_is_cut_in_mid_order_costs_no_order(visitor: Visitor) -> None:
    page = visitor.page
    sku = a_sku(stock=10)
    add(page, sku, 1)
    visitor.context.set_offline(True)

    place_order(page)
    page.get_by_text("Your order is kept and is sent again by itself").first.wait_for()
    visitor.context.set_offline(False)

    see(page, "Confirmed. It is yours.")
    assert orders_of(sku) == [("confirmed", 1)]
    visitor.forgive("ERR_INTERNET_DISCONNECTED")


def test_the_way_back_after_an_order_orders_nothing(page: "Page") -> None:
    sku = a_sku(stock=10)
    add(page, sku, 1)
    place_order(page)
    see(page, "Confirmed. It is yours.")

    page.go_back()
    see(page, "Your basket is empty")
    page.go_forward()

    see(page, "Confirmed. It is yours.")
    assert orders_of(sku) == [("confirmed", 1)]


def test_another_buyer_cannot_see_the_order(opened: Opening) -> None:
    buyer, other = opened(), opened()
    sku = a_sku(stock=10)
    open_product(buyer.page, sku)
    buyer.page.get_by_role("button", name="Buy now").click()
    see(buyer.page, "Confirmed. It is yours.")
    order_id = buyer.page.url.rsplit("/", 1)[1]

    other.page.goto("/")
    answers = [
        other.page.request.get(address).status
        for address in (f"/orders/{order_id}", f"/watch/orders/{order_id}")
    ]
    other.page.goto(f"/orders/{order_id}")

    assert answers == [404, 404]
    see(other.page, "There is nothing here")
    other.forgive("404")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("path", "heading"),
    [
        ("/", "Shop"),
        ("/?q=there+is+no+such+thing", "Nothing is called that"),
        ("/basket", "Your basket is empty"),
    ],
)
def test_pages_without_anything_in_them_have_no_barrier(
    opened: Opening, path: str, heading: str, scheme: str
) -> None:
    visitor = opened(**PHONE, color_scheme=scheme)

    visitor.page.goto(path)

    see(visitor.page, heading)
    assert visitor.barriers() == []
