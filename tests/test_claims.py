"""One key, one order: whatever Redis has under the key, and while the secret that ids derive from is rotated."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
import redis
from django.conf import settings

from shop import intake, keys, pauses
from shop.clients import create_key
from shop.domain import Order
from shop.fulfilment import Rules
from shop.intake import Accepted, Replayed, Reused, derived_id, ids_before
from shop.models import Order as OrderRow
from shop.models import StockMovement
from shop.pauses import Part
from shop.settings import _listed
from shop.stores import StoreUnavailable, redis_client
from tests.builders import a_sku, an_order, assert_at_rest, at_once, free_in_redis, wait_until
from tests.running import Answer, System, frozen
from tests.shopper import Shopper
from tests.test_web_stores import all_of, in_a_web_process
from tests.works import do
from workers.embedded import PostgresServer

OLD, NEW = "a secret that somebody may have seen", "its successor"


def with_secrets(monkeypatch: pytest.MonkeyPatch, secret: str, *before: str) -> None:
    """From now on this process is a web process with these secrets."""
    monkeypatch.setattr(intake, "_hash_keys", lambda: intake.hash_keys(secret, *before))


def place(*asked: tuple[Order, str]) -> list[Any]:
    """Have orders accepted under keys, in one call, as a web process does; what it says, or raises."""

    async def story() -> list[Any]:
        deadline = asyncio.get_running_loop().time() + 10
        placing = (intake.accept(order, key, deadline) for order, key in asked)
        return await asyncio.gather(*placing, return_exceptions=True)

    return list(in_a_web_process(story))


def place_one(sku: str, key: str, client: str = "shop") -> Any:
    return place((an_order((sku, 1), client=client, key=key), key))[0]


def work(client: "redis.Redis") -> None:
    """What workers do until the queue is empty."""
    while message := client.rpop(keys.ORDER_QUEUE):
        do(client, message, Rules())


def orders_of(sku: str) -> int:
    return OrderRow.objects.filter(lines__sku=sku).count()


# --- what may stand under a key --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Of whom a key is, and orders that have the same content as its own."""

    client: str
    key: str
    another: str
    strangers: str

    @property
    def name(self) -> str:
        """The key in Redis."""
        return keys.idempotency(self.client, self.key)


LIES: dict[str, Callable[[Claim], str]] = {
    "another uuid": lambda _: str(uuid.uuid4()),
    "no uuid": lambda _: "\x00 no id at all",
    "nothing": lambda _: "",
    "another order of the client": lambda claim: claim.another,
    "an order of a stranger": lambda claim: claim.strangers,
    "a list": lambda claim: claim.another,
    "an id of another secret": lambda claim: ids_before("order", claim.client, claim.key)[0],
}
AGES = ["queued", "ended", "ended long ago"]


def tell(client: "redis.Redis", claim: Claim, lie: str) -> None:
    client.delete(claim.name)
    (client.rpush if lie == "a list" else client.set)(claim.name, LIES[lie](claim))


def grow_old(client: "redis.Redis", order_id: str, age: str) -> None:
    """Leave an order queued, or have it end, or end and be forgotten by Redis."""
    if age != "queued":
        work(client)
    if age == "ended long ago":
        client.delete(keys.order(order_id))


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("lie", LIES)
def test_whatever_stands_under_a_key_it_has_one_order(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, lie: str, age: str
) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    another, strangers = place_one(sku, uuid.uuid4().hex), place_one(sku, key, client="a stranger")
    first = place_one(sku, key)
    grow_old(client, first.id, age)
    if lie == "an id of another secret":
        with_secrets(monkeypatch, settings.ORDER_ID_SECRET, OLD)

    tell(client, Claim(client="shop", key=key, another=another.id, strangers=strangers.id), lie)
    again = place_one(sku, key)
    work(client)

    assert (first, again) == (Accepted(derived_id("order", "shop", key)), Replayed(first.id))
    assert client.get(keys.idempotency("shop", key)) == first.id
    assert (orders_of(sku), free_in_redis(client, sku)) == (3, 7)
    assert_at_rest(client)


def test_a_key_that_was_claimed_for_an_id_of_an_old_secret_gets_that_id(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    with_secrets(monkeypatch, OLD)
    first = place_one(sku, key)
    client.delete(keys.order(first.id))  # its message is still on the queue

    with_secrets(monkeypatch, NEW, OLD)
    again = place_one(sku, key)
    work(client)

    assert again == first
    assert (orders_of(sku), free_in_redis(client, sku)) == (1, 9)
    assert_at_rest(client)


def test_an_order_that_may_have_ended_is_put_off_while_postgresql_is_unavailable(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer
) -> None:
    sku = a_sku(stock=10)
    known, gone, overwritten, new = asked = [(an_order((sku, 1)), uuid.uuid4().hex) for _ in range(4)]
    placed = place(known, gone, overwritten)
    client.delete(*(keys.order(order.id) for order, _ in (gone, overwritten)))
    client.set(keys.idempotency("shop", overwritten[1]), "no id at all")

    with frozen(*all_of(postgres_server)):
        answers = place(*asked)
        with_secrets(monkeypatch, settings.ORDER_ID_SECRET, OLD)
        of_several_ids = place(known, (an_order((sku, 1)), uuid.uuid4().hex))

    assert answers[0] == of_several_ids[0] == Replayed(placed[0].id)
    assert answers[3] == Accepted(new[0].id)
    assert [type(answer) for answer in (*answers[1:3], of_several_ids[1])] == [StoreUnavailable] * 3
    assert client.llen(keys.ORDER_QUEUE) == len(placed) + 1
    wait_until(lambda: place(gone) == [placed[1]], what="PostgreSQL, and the order")


# --- another secret --------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", ["kept", "lost"])
@pytest.mark.parametrize("age", AGES)
def test_an_order_keeps_its_key_when_the_secret_is_rotated(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, age: str, claim: str
) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    with_secrets(monkeypatch, OLD, NEW)
    first = place_one(sku, key)
    grow_old(client, first.id, age)
    if claim == "lost":
        client.delete(keys.idempotency("shop", key))

    with_secrets(monkeypatch, NEW, "one that was never used", OLD)
    order, other = an_order((sku, 1), key=key), an_order((sku, 2), key=key)
    again = place((order, key), (other, key), (order, key))
    work(client)

    assert again == [Replayed(first.id), Reused(first.id), Replayed(first.id)]
    assert client.get(keys.idempotency("shop", key)) == first.id != order.id
    assert (orders_of(sku), free_in_redis(client, sku)) == (1, 9)
    assert_at_rest(client)


def repeated_at_a_process_with_the_old_secret(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, *before: str
) -> int:
    """Place an order at a process that has the new secret, and once more at one that has not; how many there are."""
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    with_secrets(monkeypatch, NEW, OLD)
    place_one(sku, key)
    with_secrets(monkeypatch, OLD, *before)
    place_one(sku, key)
    work(client)
    return orders_of(sku)


def test_web_processes_with_two_secrets_that_know_each_other_make_one_order(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repeated_at_a_process_with_the_old_secret(client, monkeypatch, NEW) == 1


def test_a_rotation_without_its_first_step_makes_second_orders(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repeated_at_a_process_with_the_old_secret(client, monkeypatch) == 2


@pytest.mark.parametrize(
    ("text", "secrets"), [("", []), (" ", []), ("a", ["a"]), (" a b , c,a b", ["a b", "c"])]
)
def test_a_list_of_secrets_is_read_without_outer_blanks_and_each_once(text: str, secrets: list[str]) -> None:
    assert _listed("A_LIST", text) == secrets


@pytest.mark.parametrize("text", [",", "a,", ", a", "a, ,b"])
def test_a_list_of_secrets_with_an_empty_part_is_refused(text: str) -> None:
    with pytest.raises(SystemExit, match="A_LIST has an empty part"):
        _listed("A_LIST", text)


# --- all the way -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """Two web processes in the second step of `docs/rotate-keys.md`: one has the old secret still, one the new."""

    old: System
    new: System
    client: str

    def place(self, system: System, sku: str, key: str) -> Answer:
        """Place an order for one unit."""
        return system.place((sku, 1), key=key)

    def move(self, system: System, sku: str, key: str) -> Answer:
        """Take one unit off sale."""
        path = f"/api/v1/products/{quote(sku)}/stock-movements"
        return system.send("POST", path, {"delta": -1, "reason": "count"}, {"Idempotency-Key": key})


@pytest.fixture(scope="module")
def rotation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotation]:
    """With one worker."""
    redis_client().flushdb()
    name = f"rotates-{uuid.uuid4().hex[:8]}"
    one = {"ORDER_ID_SECRET": OLD, "ORDER_ID_SECRETS_BEFORE": f" {NEW} "}
    other = {"ORDER_ID_SECRET": NEW, "ORDER_ID_SECRETS_BEFORE": f"one before, {OLD}"}
    old, new = (System(tmp_path_factory.mktemp("web"), env) for env in (one, other))
    with old, new:
        old.api_key = new.api_key = create_key(name, ["orders", "stock"])
        yield Rotation(old=old.start("web", "worker"), new=new.start("web"), client=name)


def is_replay(answer: Answer, first: Answer) -> bool:
    told = answer.status, answer.body.get("id"), answer.headers.get("Idempotency-Replayed")
    return told == (first.status, first.body["id"], "true")


def test_orders_and_movements_keep_their_keys_at_both_processes(rotation: Rotation) -> None:
    for ask in (rotation.place, rotation.move):
        for one, other in ((rotation.old, rotation.new), (rotation.new, rotation.old)):
            sku, key = a_sku(stock=10), uuid.uuid4().hex
            first = ask(one, sku, key)
            if first.status == 202:
                assert one.end_of(first.body["id"]).body["status"] == "confirmed"

            again = ask(other, sku, key)

            assert is_replay(again, first)
            assert free_in_redis(redis_client(), sku) == 9


def test_an_order_that_gets_the_id_of_its_claim_is_answered_with_that_id(
    rotation: Rotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_secrets(monkeypatch, NEW, OLD)
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    claimed = ids_before("order", rotation.client, key)[0]
    redis_client().set(keys.idempotency(rotation.client, key), claimed, ex=keys.DAY_S)

    answer = rotation.place(rotation.new, sku, key)

    assert (answer.status, answer.body["id"], answer.headers["Location"]) == (
        202,
        claimed,
        f"/api/v1/orders/{claimed}",
    )
    assert rotation.old.end_of(claimed).body["status"] == "confirmed"


def test_copies_that_meet_both_processes_at_once_are_one(rotation: Rotation) -> None:
    for _ in range(5):
        sku, key = a_sku(stock=100), uuid.uuid4().hex
        ids: list[set[str]] = []
        for ask in (rotation.place, rotation.move):
            asking = (partial(ask, at, sku, key) for at in [rotation.old, rotation.new] * 3)
            ids.append({answer.body["id"] for answer in at_once(*asking) if isinstance(answer, Answer)})

        assert [len(each) for each in ids] == [1, 1]
        assert rotation.old.end_of(ids[0].pop()).body["status"] == "confirmed"
        moved = StockMovement.objects.filter(sku=sku, kind=StockMovement.Kind.ADJUSTMENT)
        assert (orders_of(sku), moved.count()) == (1, 1)
        assert free_in_redis(redis_client(), sku) == 98


def test_a_buyer_keeps_an_order_when_the_secret_is_rotated(rotation: Rotation) -> None:
    buyer, sku = Shopper(rotation.old), a_sku(stock=10)
    product = f"/products/{quote(sku)}"
    buyer.lose(buyer.get(product), "Buy now")
    buyer.url = rotation.new.url
    page = buyer.get(product)

    again, once_more = buyer.press(page, "Buy now"), buyer.press(page, "Buy now")

    assert "Nothing was ordered twice" in again.body
    assert "Nothing was ordered twice" in once_more.body
    assert again.headers["url"] == once_more.headers["url"]
    wait_until(lambda: orders_of(sku) == 1, what="the end of the order")
    assert free_in_redis(redis_client(), sku) == 9


def test_the_answer_is_the_first_order_whatever_stands_under_its_key(
    rotation: Rotation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_secrets(monkeypatch, OLD, NEW)
    stranger = create_key(f"stranger-{uuid.uuid4().hex[:8]}", ["orders"])
    assert pauses.pause(redis_client(), Part.FULFILMENT, who="Ada", reason="orders are to stay queued")
    try:
        skus = [repeated_under_a_lie(rotation, stranger, lie, "queued") for lie in LIES]
    finally:
        pauses.resume(redis_client(), Part.FULFILMENT, who="Ada")
    skus += [repeated_under_a_lie(rotation, stranger, lie, age) for age in AGES[1:] for lie in LIES]

    wait_until(lambda: all(orders_of(sku) == 3 for sku in skus), what="the ends of all orders")
    wait_until(lambda: not redis_client().zcard(keys.OPEN_ORDERS), what="the last one")
    assert [(orders_of(sku), free_in_redis(redis_client(), sku)) for sku in skus] == [(3, 7)] * len(skus)


def repeated_under_a_lie(rotation: Rotation, stranger: str, lie: str, age: str) -> str:
    """Place an order twice, with something else under its key in between; its SKU."""
    shop, sku, key = rotation.old, a_sku(stock=10), uuid.uuid4().hex
    another = shop.place((sku, 1))
    body = {"items": [{"sku": sku, "quantity": 1}]}
    strangers = shop.send("POST", "/api/v1/orders", body, {"Idempotency-Key": key}, api_key=stranger)
    first = shop.place((sku, 1), key=key)
    if age != "queued":
        assert shop.end_of(first.body["id"]).body["status"] == "confirmed"
    if age == "ended long ago":
        redis_client().delete(keys.order(first.body["id"]))
    claim = Claim(client=rotation.client, key=key, another=another.body["id"], strangers=strangers.body["id"])

    tell(redis_client(), claim, lie)
    again = shop.place((sku, 1), key=key)

    assert (lie, age, is_replay(again, first)) == (lie, age, True)
    assert redis_client().get(claim.name) == first.body["id"]
    return sku


def test_an_order_that_may_have_ended_is_answered_503_while_postgresql_is_unavailable(
    rotation: Rotation, postgres_server: PostgresServer
) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex
    first = rotation.old.place((sku, 1), key=key)
    rotation.old.end_of(first.body["id"])
    redis_client().delete(keys.order(first.body["id"]))

    with frozen(*all_of(postgres_server)):
        meanwhile = rotation.old.place((sku, 1), key=key)
    wait_until(lambda: rotation.old.place((sku, 1), key=key).status == 202, what="PostgreSQL")

    assert (meanwhile.status, meanwhile.body["type"]) == (503, "unavailable")
    assert int(meanwhile.headers["Retry-After"]) > 0
    assert orders_of(sku) == 1
