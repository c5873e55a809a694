"""Staff at work in the admin, with a real browser."""

import re
import uuid
from typing import TYPE_CHECKING

import pytest

from shop import keys
from shop.models import ApiKey, Product, StockMovement
from shop.stores import redis_client
from tests.browser.chromium import PHONE, Visitor
from tests.browser.conftest import Opening
from tests.builders import a_sku, accepted, an_order, wait_until
from tests.running import System
from tests.staff import PASSWORD, a_user

if TYPE_CHECKING:
    from playwright.sync_api import Page


def signed_in(visitor: Visitor, *permissions: str) -> "Page":
    """Somebody of the staff at the admin's first page."""
    page = visitor.page
    page.goto("/admin/")
    page.get_by_label("Username").fill(a_user(*permissions))
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/admin/")
    return page


@pytest.fixture
def admin(visitor: Visitor) -> "Page":
    """The admin, for somebody who may do everything."""
    return signed_in(visitor)


def test_staff_finds_an_order_reads_its_life_and_cancels_it(system: System, admin: "Page") -> None:
    sku = a_sku(stock=5)
    order = system.end_of(system.place((sku, 2), customer="17850").body["id"]).body

    admin.get_by_role("link", name="Orders", exact=True).first.click()
    admin.get_by_label("Search").fill(order["id"])
    admin.get_by_role("button", name="Search").click()
    timeline = admin.locator("#timeline")
    assert re.findall("Accepted|Decided: confirmed|Sold", timeline.inner_text()) == [
        "Accepted",
        "Decided: confirmed",
        "Sold",
    ]
    admin.get_by_role("link", name="Cancel this order").click()
    admin.get_by_role("button", name="Cancel the order").click()
    admin.get_by_text("is to be cancelled").wait_for()

    wait_until(lambda: system.get(order["href"]).body["status"] == "cancelled", what="the cancellation")
    admin.reload()
    assert re.findall("Back on sale|Cancelled|Asked for its cancellation", timeline.inner_text())
    assert Product.objects.get(pk=sku).confirmed == 0


def test_staff_puts_an_order_that_waits_in_line_again(system: System, admin: "Page") -> None:
    (order,) = accepted(redis_client(), an_order((a_sku(stock=5), 2)))

    admin.goto("/admin/shop/order/")
    admin.get_by_role("link", name="Orders that wait").click()
    admin.get_by_role("link", name=order.id).click()
    admin.get_by_role("button", name="Enqueue again").click()

    admin.get_by_text("The order is in line again.").wait_for()
    wait_until(lambda: redis_client().hget(keys.order(order.id), "status") == "confirmed", what="its end")


def test_a_double_click_moves_stock_once(system: System, admin: "Page") -> None:
    sku = a_sku(stock=5)
    admin.goto("/admin/shop/product/?q=" + sku.replace(" ", "+"))
    admin.get_by_role("link", name=sku).click()

    admin.get_by_label("Units").fill("10")
    admin.get_by_label("Reason").fill("delivery")
    admin.get_by_role("button", name="Move stock").dblclick()
    admin.get_by_text(f"10 units of {sku}").first.wait_for()

    assert StockMovement.objects.filter(sku=sku, kind="adjustment").count() == 1
    assert Product.objects.get(pk=sku).on_sale == 15


def test_going_back_and_sending_the_form_again_moves_stock_once(system: System, admin: "Page") -> None:
    sku = a_sku(stock=5)
    admin.goto("/admin/shop/product/?q=" + sku.replace(" ", "+"))
    admin.get_by_role("link", name=sku).click()
    admin.get_by_label("Units").fill("10")
    admin.get_by_label("Reason").fill("delivery")
    form = admin.locator("#id_key").get_attribute("value")
    admin.get_by_role("button", name="Move stock").click()
    admin.get_by_text("15 are free").wait_for()

    admin.evaluate("key => document.querySelector('#id_key').value = key", form)
    admin.get_by_label("Units").fill("10")
    admin.get_by_label("Reason").fill("delivery")
    admin.get_by_role("button", name="Move stock").click()
    admin.get_by_text("stock was moved once").wait_for()

    assert Product.objects.get(pk=sku).on_sale == 15


def test_what_cannot_be_moved_is_said_at_the_field(admin: "Page", visitor: Visitor) -> None:
    sku = a_sku(stock=5)
    admin.goto("/admin/shop/product/?q=" + sku.replace(" ", "+"))
    admin.get_by_role("link", name=sku).click()

    admin.get_by_label("Units").fill("-6")
    admin.get_by_label("Reason").fill("shrinkage")
    admin.get_by_role("button", name="Move stock").click()

    admin.get_by_text("Only 5 units are free to be taken.").wait_for()
    assert admin.get_by_label("Reason").input_value() == "shrinkage"
    assert visitor.barriers() == []
    visitor.forgive("422")


def test_a_key_is_shown_once_and_ended(system: System, admin: "Page") -> None:
    client = f"client-{uuid.uuid4().hex[:8]}"
    admin.goto("/admin/shop/apikey/")
    admin.get_by_role("link", name=re.compile("Add api key", re.IGNORECASE)).first.click()
    admin.get_by_label("Client").fill(client)
    admin.get_by_label("stock").check()
    admin.get_by_role("button", name="Make the key").dblclick()
    key = admin.locator("#api-key").inner_text()

    assert system.send("GET", "/api/v1/products", api_key=key).status == 200
    assert ApiKey.objects.filter(client=client).count() == 1
    admin.get_by_role("link", name="I have copied it").click()
    assert key not in admin.content()
    admin.get_by_role("row", name=client).get_by_role("link", name="Revoke").click()
    admin.get_by_role("button", name="Revoke the key").click()
    admin.get_by_text(f"The key of {client} has ended.").wait_for()
    wait_until(
        lambda: system.send("GET", "/api/v1/products", api_key=key).status == 401,
        timeout_s=5,
        what="the end of the key",
    )


def test_who_may_only_look_is_offered_nothing_else(system: System, visitor: Visitor) -> None:
    order = system.end_of(system.place((a_sku(stock=5), 2)).body["id"]).body

    looking = signed_in(visitor, "view_order", "view_product")
    looking.goto(f"/admin/shop/order/{order['id']}/change/")

    looking.locator("#timeline").wait_for()
    assert looking.get_by_role("link", name="Cancel this order").count() == 0
    assert visitor.barriers() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_of_the_admin_has_a_barrier_or_breaks_the_policy(
    system: System, opened: Opening, scheme: str
) -> None:
    sku = a_sku(stock=5)
    order = system.end_of(system.place((sku, 2), customer="17850", reference="PO 1").body["id"]).body
    (waiting,) = accepted(redis_client(), an_order((sku, 1)))
    visitor = opened(color_scheme=scheme)
    page = signed_in(visitor)

    barriers = {}
    for path in (
        "/admin/",
        "/admin/shop/order/",
        "/admin/shop/order/waiting/",
        f"/admin/shop/order/{order['id']}/change/",
        f"/admin/shop/order/{order['id']}/cancel/",
        f"/admin/shop/order/{waiting.id}/change/",
        "/admin/shop/product/",
        f"/admin/shop/product/{sku}/change/",
        "/admin/shop/stockmovement/",
        "/admin/shop/apikey/",
        "/admin/shop/apikey/add/",
        "/admin/admin/logentry/",
    ):
        page.goto(path)
        barriers[path] = visitor.barriers()

    assert {path: found for path, found in barriers.items() if found} == {}


def test_on_a_phone_no_page_is_wider_than_its_screen(system: System, opened: Opening) -> None:
    sku = a_sku(stock=5)
    order = system.end_of(system.place((sku, 2), customer="17850", reference="PO 1").body["id"]).body
    page = signed_in(opened(**PHONE))

    for path in (f"/admin/shop/order/{order['id']}/change/", f"/admin/shop/product/{sku}/change/"):
        page.goto(path)

        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
