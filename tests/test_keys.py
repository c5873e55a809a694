"""Every key that the system writes is on the list, with the type and the lifetime that the list says."""

import fnmatch
import uuid

import pytest
import redis
from django.conf import settings

from shop import keys, reconciliation, sweeper, system_state
from shop.fulfilment import fulfil
from shop.stores import redis_client
from tests.builders import a_sku, an_order
from tests.running import System
from tests.works import accept


def broken_promises(client: "redis.Redis") -> list[str]:
    """Keys that are not listed, of another type, or living longer than their entry allows."""
    broken = []
    for name in client.scan_iter(count=1000):
        spec = next((spec for spec in keys.SPECS if fnmatch.fnmatchcase(name, spec.pattern)), None)
        if spec is None:
            broken.append(f"{name} is not listed")
        elif (kind := client.type(name)) not in {spec.type, "none"}:
            broken.append(f"{name} is a {kind}, not a {spec.type}")
        elif spec.lifetime_s is not None and not -2 <= client.pttl(name) <= spec.lifetime_s * 1000:
            broken.append(f"{name} lives too long")
        elif spec.lifetime_s is not None and client.pttl(name) == -1:
            broken.append(f"{name} never expires")
    return broken


# First, because a worker of the system below would have some of the messages in hand, which take room too.
def test_what_is_left_of_an_order_in_redis_after_a_quarter_of_an_hour_is_its_key(
    client: "redis.Redis",
) -> None:
    """At most 300 bytes for an order of three lines, with a key of 36 characters; with its record it is thrice as many."""
    skus = [a_sku(stock=100_000) for _ in range(3)]
    orders = [an_order(*((sku, 1) for sku in skus)) for _ in range(4_096)]
    before = client.info("memory")["used_memory"]

    for at in range(0, len(orders), 256):
        batch = orders[at : at + 256]
        for order in batch:
            accept(client, order, str(uuid.uuid4()))
        fulfil(batch, client=client)
        client.delete(keys.ORDER_QUEUE)
    ended = client.info("memory")["used_memory"] - before
    client.delete(*(keys.order(order.id) for order in orders))  # as time does
    left = client.info("memory")["used_memory"] - before

    assert left / len(orders) <= 300
    assert ended / left > 3


def test_a_day_s_work_leaves_only_keys_that_are_listed(system: System) -> None:
    sku = a_sku(stock=10)
    confirmed = system.end_of(system.place((sku, 3)).body["id"]).body
    rejected = system.end_of(system.place((sku, 30)).body["id"]).body
    movement = {"Idempotency-Key": uuid.uuid4().hex}
    system.send(
        "POST",
        f"/api/v1/products/{sku.replace(' ', '%20')}/stock-movements",
        {"delta": -1, "reason": "x"},
        movement,
    )
    system.send("POST", f"{confirmed['href']}/cancel")

    assert broken_promises(redis_client()) == []
    for order in (confirmed, rejected):
        assert 0 < redis_client().ttl(keys.order(order["id"])) <= settings.ENDED_ORDERS_KEPT_S


def test_what_is_asked_for_again_and_again_searches_no_key_by_a_pattern(system: System) -> None:
    client = redis_client()
    client.set(keys.stock(a_sku(stock=3)), 7)  # to be looked at closely
    client.config_resetstat()

    answers = [system.get(path).status for path in ("/readyz", "/metrics")]
    found = reconciliation.reconcile(client, repair=True)
    sweeper.sweep(client)
    system_state.look(client)

    asked = client.info("commandstats").keys()
    assert answers == [200, 200]
    assert found.differences
    assert "cmdstat_mget" in asked  # it is counted
    assert not asked & {"cmdstat_scan", "cmdstat_keys"}


@pytest.mark.parametrize(
    ("name", "told"),
    [("unheard:of", "not listed"), ("estoque:x", "is a list"), ("idempotency:a:b", "never expires")],
)
def test_a_key_that_breaks_its_promise_is_found(client: "redis.Redis", name: str, told: str) -> None:
    if name.startswith("estoque"):
        client.lpush(name, "1")
    else:
        client.set(name, "1")

    assert told in broken_promises(client)[0]


def test_two_names_cannot_mean_one_key() -> None:
    samples = [spec.pattern.replace("*", "sample") for spec in keys.SPECS]

    for sample in samples:
        assert sum(fnmatch.fnmatchcase(sample, spec.pattern) for spec in keys.SPECS) == 1, sample
