"""A buyer whose answer is lost tries again in whatever way, without a script: it stays one order."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from shop.domain import Order
from shop.stores import redis_client
from tests.builders import a_sku
from tests.running import Answer, System
from tests.shopper import Shopper

UNGUARDED = "tests.unguarded_web"


@contextmanager
def a_web(folder: Path, module: str = "shop.web", **env: str) -> Iterator[System]:
    """A web process; nobody works, so that what was ordered is in line."""
    with System(folder, env=env, web_module=module) as running:
        yield running.start("web")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Shared by the tests of this module."""
    with a_web(tmp_path_factory.mktemp("web")) as running:
        yield running


def page_of(shopper: Shopper, sku: str) -> Answer:
    """A product's page, as it is now."""
    return shopper.get("/products/" + sku.replace(" ", "%20"))


def buy(shopper: Shopper, sku: str) -> Answer:
    """Order one at one tap, from a page that is new."""
    return shopper.press(page_of(shopper, sku), "Buy now")


def fill(shopper: Shopper, sku: str) -> Answer:
    """The basket's page, with one of the product in it."""
    return shopper.press(page_of(shopper, sku), "Add to basket")


def orders_of(sku: str) -> int:
    """How many orders in line name the SKU."""
    documents = [
        redis_client().hget(f"order:{each}", "document")
        for each in redis_client().zrange("orders:open", 0, -1)
    ]
    return sum(sku in msgspec.json.decode(document or "", type=Order).skus for document in documents)


# --- ways to try again: each orders `sku` once, loses the answer, and orders it once more --------------


def the_same_page(shopper: Shopper, sku: str) -> None:
    page = page_of(shopper, sku)
    shopper.lose(page, "Buy now")
    shopper.press(page, "Buy now")


def a_page_loaded_anew(shopper: Shopper, sku: str) -> None:
    shopper.lose(page_of(shopper, sku), "Buy now")
    buy(shopper, sku)


def after_another_product(shopper: Shopper, sku: str) -> None:
    shopper.lose(page_of(shopper, sku), "Buy now")
    buy(shopper, a_sku())
    buy(shopper, sku)


def after_the_basket(shopper: Shopper, sku: str) -> None:
    basket = fill(shopper, a_sku())
    shopper.lose(page_of(shopper, sku), "Buy now")
    shopper.press(basket, "Place order")
    buy(shopper, sku)


def a_window_from_before_another_order(shopper: Shopper, sku: str) -> None:
    old_window = page_of(shopper, sku)
    buy(shopper, a_sku())
    shopper.lose(page_of(shopper, sku), "Buy now")
    shopper.press(old_window, "Buy now")


def a_window_from_before_the_product_was_forgotten(shopper: Shopper, sku: str) -> None:
    old_window = page_of(shopper, sku)
    buyer = shopper.buyer
    for _ in range(51):
        buyer.tapped(buyer.next_tap(uuid.uuid4().hex))
    shopper.buyer = buyer
    shopper.lose(page_of(shopper, sku), "Buy now")
    shopper.press(old_window, "Buy now")


def the_basket_after_one_tap(shopper: Shopper, sku: str) -> None:
    shopper.lose(fill(shopper, sku), "Place order")
    buy(shopper, a_sku())
    shopper.press(shopper.get("/basket"), "Place order")


WAYS: dict[Callable[[Shopper, str], None], str] = {
    the_same_page: "",
    a_page_loaded_anew: "",
    after_another_product: "own keys",
    after_the_basket: "own keys",
    a_window_from_before_another_order: "own keys and the past",
    a_window_from_before_the_product_was_forgotten: "the past",
    the_basket_after_one_tap: "own keys",
}


@pytest.mark.parametrize("try_again", WAYS)
def test_whoever_tries_again_after_a_lost_answer_has_one_order(
    web: System, try_again: Callable[[Shopper, str], None]
) -> None:
    redis_client().flushdb()
    sku, shopper = a_sku(), Shopper(web)

    try_again(shopper, sku)

    assert orders_of(sku) == 1


@pytest.mark.parametrize("guard", sorted({guard for guard in WAYS.values() if guard}))
def test_without_its_guard_a_lost_answer_is_found_to_make_a_second_order(tmp_path: Path, guard: str) -> None:
    redis_client().flushdb()
    found = {}

    with a_web(tmp_path, UNGUARDED, UNGUARDED=guard) as web:
        for try_again in [way for way, needed in WAYS.items() if needed == guard]:
            sku = a_sku()
            try_again(Shopper(web), sku)
            found[try_again.__name__] = orders_of(sku)

    assert set(found.values()) == {2}, found


def test_who_wants_it_once_more_buys_it_once_more(web: System) -> None:
    redis_client().flushdb()
    sku, shopper = a_sku(), Shopper(web)
    first_page = page_of(shopper, sku)
    first = shopper.press(first_page, "Buy now")

    second = buy(shopper, sku)
    repeated = shopper.press(first_page, "Buy now")

    assert orders_of(sku) == 2
    assert second.headers["url"] != first.headers["url"] == repeated.headers["url"]
    assert "Nothing was ordered twice" in repeated.body


def test_a_page_too_old_to_order_by_leads_to_the_present_one(web: System) -> None:
    redis_client().flushdb()
    sku, shopper = a_sku(), Shopper(web)
    page, basket = page_of(shopper, sku), fill(shopper, a_sku())
    buyer = shopper.buyer
    buyer.first_tap, buyer.key = 1, "another-key-of-a-basket"
    shopper.buyer = buyer

    of_product, of_basket = shopper.press(page, "Buy now"), shopper.press(basket, "Place order")

    assert orders_of(sku) == 0
    assert of_product.headers["url"].endswith("/products/" + sku.replace(" ", "%20"))
    assert of_basket.headers["url"].endswith("/basket")
    for answered in (of_product, of_basket):
        assert "Nothing was ordered; please look once more" in answered.body
    assert "Your order is in line" in shopper.press(of_product, "Buy now").body


def test_a_cookie_that_was_overtaken_by_another_orders_nothing_twice(web: System) -> None:
    """Two windows answered at once: the cookie of the one that is stored last knows nothing of the other's order."""
    redis_client().flushdb()
    sku, shopper = a_sku(), Shopper(web)
    buy(shopper, sku)
    known = shopper.buyer
    known.taps = {}
    shopper.buyer = known

    repeated, wanted = buy(shopper, sku), buy(shopper, sku)

    assert "Nothing was ordered twice" in repeated.body
    assert "Nothing was ordered twice" not in wanted.body
    assert orders_of(sku) == 2
