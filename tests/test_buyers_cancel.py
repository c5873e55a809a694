"""A buyer cancels an order on its page: after a question, once however often it is sent, and nobody else's."""

import re

import pytest

from shop.models import StockMovement
from shop.stores import redis_client
from tests.builders import a_sku, assert_at_rest, free_in_redis, wait_until
from tests.running import Answer, System, frozen
from tests.shopper import Shopper

UNKNOWN = "/orders/00000000-0000-8000-8000-000000000000"


@pytest.fixture
def shopper(system: System) -> Shopper:
    """Somebody new."""
    return Shopper(system)


def path_of(page: Answer) -> str:
    """Where a page is."""
    return "/" + str(page.headers["url"]).split("/", 3)[3]


def ordered(shopper: Shopper, sku: str, units: int = 1) -> str:
    """The path of an order that was placed this moment."""
    page = shopper.get("/products/" + sku.replace(" ", "%20"))
    return path_of(shopper.press(page, "Buy now", quantity=str(units)))


def see(shopper: Shopper, path: str, words: str) -> Answer:
    """The page, as soon as it says so."""
    seen: list[Answer] = []

    def is_seen() -> bool:
        seen.append(shopper.get(path))
        return words in seen[-1].body

    wait_until(is_seen, what=words)
    return seen[-1]


def confirmed(shopper: Shopper, sku: str, units: int = 1) -> str:
    """The path of an order that has been confirmed."""
    path = ordered(shopper, sku, units)
    see(shopper, path, "Confirmed. It is yours.")
    return path


def units_returned(sku: str) -> list[int]:
    """What the ledger has of units that came back."""
    return list(StockMovement.objects.filter(sku=sku, kind="cancellation").values_list("delta", flat=True))


def wishes() -> list[str]:
    """Ids of orders that are to be cancelled."""
    return list(redis_client().zrange("orders:cancelling", 0, -1))


def test_a_confirmed_order_is_cancelled_after_a_question_and_its_units_are_on_sale_again(
    shopper: Shopper,
) -> None:
    sku = a_sku(stock=10)
    path = confirmed(shopper, sku, 4)

    question = shopper.get(f"{path}/cancel")
    before = units_returned(sku)
    answered = shopper.press(question, "Cancel the order")

    assert "Cancel this order?" in question.body
    assert before == []
    assert path_of(answered) == path
    ended = see(shopper, path, "<h1>Cancelled</h1>")
    assert "Cancel this order" not in ended.body
    assert units_returned(sku) == [4]
    wait_until(lambda: free_in_redis(redis_client(), sku) == 10, what="the units in Redis")
    assert_at_rest(redis_client())


def test_a_queued_order_is_shown_as_being_cancelled_until_it_is(system: System, shopper: Shopper) -> None:
    sku = a_sku(stock=10)
    with frozen(*system.pids("worker")):
        path = ordered(shopper, sku, 3)
        shown = shopper.press(shopper.get(f"{path}/cancel"), "Cancel the order")
        watched = shopper.get(f"/watch{path}")
        asked_again = shopper.get(f"{path}/cancel")

        assert "Your order is being cancelled" in shown.body
        assert 'http-equiv="refresh"' in shown.body
        assert "Cancel this order" not in shown.body
        assert watched.body == '{"status":"cancelling","words":""}'
        assert path_of(asked_again) == path

    see(shopper, path, "<h1>Cancelled</h1>")
    assert sum(units_returned(sku)) in {0, 3}  # cancelled before it was fulfilled, or right after
    wait_until(lambda: not wishes(), what="the wish")
    assert_at_rest(redis_client())


def test_an_order_that_is_cancelled_by_several_taps_and_reloads_gives_its_units_back_once(
    shopper: Shopper,
) -> None:
    sku = a_sku(stock=10)
    path = confirmed(shopper, sku, 2)
    question = shopper.get(f"{path}/cancel")

    answers = [shopper.press(question, "Cancel the order") for _ in range(3)]
    see(shopper, path, "<h1>Cancelled</h1>")
    answers.append(shopper.press(question, "Cancel the order"))

    assert [path_of(answer) for answer in answers] == [path] * 4
    assert "<h1>Cancelled</h1>" in answers[-1].body
    assert units_returned(sku) == [2]


def test_nobody_cancels_another_buyer_s_order_or_hears_that_it_exists(
    system: System, shopper: Shopper
) -> None:
    path = confirmed(shopper, a_sku(stock=10))
    own_question = shopper.get(f"{path}/cancel")
    other = Shopper(system)
    own = confirmed(other, a_sku(stock=10))
    form = other.get(f"{own}/cancel")

    asked, asked_of_none = other.get(f"{path}/cancel"), other.get(f"{UNKNOWN}/cancel")
    sent, sent_to_none = other.post(f"{path}/cancel", form), other.post(f"{UNKNOWN}/cancel", form)

    assert (asked.status, sent.status) == (404, 404)
    assert (asked.body, sent.body) == (asked_of_none.body, sent_to_none.body)
    assert path.removeprefix("/orders/") not in wishes()
    assert "Confirmed. It is yours." in shopper.get(path).body
    assert own_question.status == 200


def test_a_forged_form_cancels_nothing(shopper: Shopper) -> None:
    path = confirmed(shopper, a_sku(stock=10))
    question = shopper.get(f"{path}/cancel")

    forged = shopper.press(question, "Cancel the order", csrfmiddlewaretoken="x" * 64)
    shopper.get(f"{path}/cancel")  # a question alone cancels nothing either

    assert forged.status == 403
    assert "Nothing was ordered or cancelled" in forged.body
    assert "Confirmed. It is yours." in shopper.get(path).body


def test_an_order_that_was_rejected_meanwhile_stays_as_it_is_and_its_buyer_is_told(
    system: System, shopper: Shopper
) -> None:
    sku = a_sku(stock=1)
    with frozen(*system.pids("worker")):
        path = ordered(shopper, sku, 5)
        question = shopper.get(f"{path}/cancel")
    see(shopper, path, "There was not enough left")

    answered = shopper.press(question, "Cancel the order")

    assert "This order had ended before it could be cancelled" in answered.body
    assert "There was not enough left" in answered.body
    assert path_of(shopper.get(f"{path}/cancel")) == path


def test_a_wish_that_cannot_be_recorded_is_not_taken_for_one_and_works_later(
    system: System, shopper: Shopper
) -> None:
    path = confirmed(shopper, a_sku(stock=10))
    question = shopper.get(f"{path}/cancel")
    redis_client().config_set("maxmemory", 1)
    try:
        refused = shopper.press(question, "Cancel the order")
        still = shopper.get(path)
        shopper.script()
        told = shopper.press(question, "Cancel the order")
    finally:
        redis_client().config_set("maxmemory", 0)

    assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
    assert "Confirmed. It is yours." in still.body
    assert (told.status, told.body) == (503, '{"wait_s": 2, "is_paused": false}')
    again = shopper.press(question, "Cancel the order")
    assert re.fullmatch(r'\{"href": "/orders/[0-9a-f-]{36}"\}', again.body)
    see(shopper, path, "<h1>Cancelled</h1>")
