"""How the web tier reads and writes its stores: together where requests wait together, and through faults."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import uvloop
from django.conf import settings
from django.db import connection
from structlog.testing import capture_logs

from shop import books, fulfilment, intake, keys, results, scripts, stores
from shop.books import Intent, Question
from shop.domain import Order, Reason, ReasonCode, Status
from shop.results import OrderState, Settlements
from shop.stock import SETTLE_KEYS
from shop.stores import BrokenKey, RedisLine, StoreUnavailable, WebDatabase
from tests.builders import a_sku, accepted, an_order, wait_until
from tests.chaos.proxy import FaultProxy
from tests.running import frozen
from workers.embedded import PostgresServer, RedisServer
from workers.ports import LOOPBACK
from workers.proc import descendants


def in_a_web_process(
    story: Callable[[], Awaitable[Any]], run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run
) -> Any:
    """Run a story as a web process would, within 20 s, and leave no connection open."""

    async def told() -> Any:
        try:
            async with asyncio.timeout(20):
                return await story()
        finally:
            await results.close()
            await intake.close()
            await stores.order_database.close()
            await stores.web_database.close()
            await stores.web_redis().aclose()
            stores.web_redis.cache_clear()  # its pool belongs to this event loop

    return run(told())


def all_of(server: PostgresServer) -> list[int]:
    """Every process of the server."""
    return [server.pid, *descendants(server.pid)]


def script_calls(client: "redis.Redis") -> int:
    """How many scripts Redis has run."""
    return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))


@contextmanager
def statements_counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The statements that PostgreSQL is asked for orders."""
    asked: list[str] = []
    rows = WebDatabase.rows

    async def counted(self: WebDatabase, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        asked.append(name)
        return await rows(self, name, **parameters)

    with monkeypatch.context() as patched:
        patched.setattr(WebDatabase, "rows", counted)
        yield asked


def settled(order: Order) -> tuple[list[str], list[Any]]:
    """Names and arguments with which `settle.lua` publishes that the order was confirmed."""
    names = list(SETTLE_KEYS)
    return names, [keys.DAY_S, 1, "", order.id, Status.CONFIRMED.value, 1_000, "", order.fingerprint, 0]


# --- sharing ----------------------------------------------------------------------------------------------


def test_orders_that_arrive_together_are_accepted_in_one_round_trip_to_each_store(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [an_order(("A", 1)) for _ in range(64)]

    async def story() -> list[intake.Intake]:
        deadline = asyncio.get_running_loop().time() + 10
        first = await intake.accept(an_order(("A", 1)), "warms up", deadline)
        assert isinstance(first, intake.Accepted)
        before = script_calls(client)
        with statements_counted(monkeypatch) as asked:
            answers = await asyncio.gather(*(intake.accept(order, order.id, deadline) for order in orders))
        assert asked == ["fingerprints"]
        assert script_calls(client) - before == 1
        return answers

    assert in_a_web_process(story) == [intake.Accepted(order.id) for order in orders]
    assert client.llen(keys.ORDER_QUEUE) == client.zcard(keys.OPEN_ORDERS) == 65


def test_polls_that_wait_together_share_one_round_trip_to_each_store(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = accepted(client, *(an_order(("A", 1)) for _ in range(100)))

    async def story() -> list[OrderState | None]:
        await results.find(orders[0].id, "shop")
        before = script_calls(client)
        with statements_counted(monkeypatch) as asked:
            found = await asyncio.gather(*(results.find(order.id, "shop") for order in orders))
        assert asked == ["orders"]
        assert script_calls(client) - before == 1
        return found

    found = in_a_web_process(story)

    assert [state.order for state in found] == orders
    assert {state.status for state in found} == {Status.QUEUED}


def test_of_many_who_poll_together_each_gets_his_own_answer(client: "redis.Redis") -> None:
    mine, theirs = accepted(client, an_order(("A", 1)), an_order(("B", 2), client="another"))

    async def story() -> list[OrderState | None]:
        polls = [(mine.id, "shop"), (theirs.id, "shop"), (str(uuid.uuid4()), "shop"), (theirs.id, "another")]
        return await asyncio.gather(*(results.find(*poll) for poll in polls))

    found = in_a_web_process(story)

    assert [state and state.order for state in found] == [mine, None, None, theirs]


def test_a_record_that_somebody_broke_breaks_nobody_else_s_poll(client: "redis.Redis") -> None:
    broken, strange, sound = accepted(client, *(an_order(("A", 1)) for _ in range(3)))
    client.hset(keys.order(broken.id), "document", "no JSON")
    client.delete(keys.order(strange.id))
    client.set(keys.order(strange.id), "no record")

    async def story() -> list[Any]:
        polls = (results.find(order.id, "shop") for order in (broken, sound, strange, sound))
        return await asyncio.gather(*polls, return_exceptions=True)

    found = in_a_web_process(story)

    assert [found[1].order, found[3].order] == [sound, sound]
    assert [isinstance(answer, Exception) for answer in found] == [True, False, True, False]
    assert isinstance(found[2], BrokenKey)
    assert keys.order(strange.id) in str(found[2])


def test_an_order_whose_record_is_broken_is_put_off_and_its_neighbours_are_accepted(
    client: "redis.Redis",
) -> None:
    orders = [an_order(("A", 1)) for _ in range(3)]
    client.set(keys.order(orders[1].id), "no record")

    async def story() -> list[Any]:
        deadline = asyncio.get_running_loop().time() + 10
        accepting = (intake.accept(order, order.id, deadline) for order in orders)
        return await asyncio.gather(*accepting, return_exceptions=True)

    first, broken, last = in_a_web_process(story)

    assert (first, last) == (intake.Accepted(orders[0].id), intake.Accepted(orders[2].id))
    assert isinstance(broken, BrokenKey)
    assert client.llen(keys.ORDER_QUEUE) == client.zcard(keys.OPEN_ORDERS) == 2


def test_a_queue_that_is_no_list_leaves_nothing_of_an_order_behind(client: "redis.Redis") -> None:
    order = an_order(("A", 1))
    client.set(keys.ORDER_QUEUE, "no list")

    async def story() -> intake.Intake:
        return await intake.accept(order, "key", asyncio.get_running_loop().time() + 10)

    with pytest.raises(BrokenKey, match=f"`{keys.ORDER_QUEUE}` is a string and must be a list"):
        in_a_web_process(story)

    left = {key for key in client.scan_iter() if not key.startswith("figures:")}
    assert left - {keys.api_key("")} == {keys.ORDER_QUEUE}


# --- faults -----------------------------------------------------------------------------------------------


def test_a_frozen_postgresql_is_given_up_soon_and_then_left_alone_for_a_while(
    client: "redis.Redis", postgres_server: PostgresServer
) -> None:
    database = WebDatabase()

    async def given_up() -> float:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(WebDatabase.PATIENCE_S + 2):
                await database.rows("count_products")
        return time.monotonic() - began

    async def story() -> None:
        await database.rows("count_products")
        with frozen(*all_of(postgres_server)):
            assert WebDatabase.PATIENCE_S <= await given_up() < WebDatabase.PATIENCE_S + 0.5
            assert await given_up() < 0.1
        await asyncio.to_thread(wait_until, lambda: time.monotonic() > database._away_until)
        assert await database.rows("count_products")
        await database.close()

    connection.close()
    in_a_web_process(story)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_web_process_that_was_frozen_takes_postgresql_for_away_no_more_than_before(
    client: "redis.Redis", run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    async def story() -> None:
        database = WebDatabase()
        await database.rows("count_products")
        asked = [asyncio.create_task(database.rows("count_products")) for _ in range(3)]
        await asyncio.sleep(0)
        time.sleep(WebDatabase.PATIENCE_S + WebDatabase.LINE_S)  # noqa: ASYNC251 - nothing of the process runs
        assert await asyncio.gather(*asked)
        await database.close()

    connection.close()
    in_a_web_process(story, run)


def test_without_hanging_up_a_frozen_postgresql_keeps_orders_waiting(
    client: "redis.Redis", postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_hang_up", lambda _: None)

    async def story() -> None:
        database = WebDatabase()
        await database.rows("count_products")
        with frozen(*all_of(postgres_server)):
            asking = asyncio.create_task(database.rows("count_products"))
            done, _ = await asyncio.wait({asking}, timeout=2)
        assert not done
        assert await asking
        await database.close()

    connection.close()
    in_a_web_process(story)


@pytest.mark.parametrize("what", ["restarted", "told to forget its scripts"])
def test_a_line_to_redis_survives_what_happens_to_redis(
    client: "redis.Redis", redis_server: RedisServer, what: str
) -> None:
    (order,) = accepted(client, an_order(("A", 1)))
    line = RedisLine()

    async def read() -> str:
        ((document, *_),) = await scripts.run_async(line, "read", [keys.order(order.id)], [order.client])
        return str(document)

    async def story() -> tuple[str, str]:
        before = await read()
        if what == "restarted":
            redis_server.stop()
            redis_server.start()
        else:
            client.script_flush()
        after = await read()
        await line.close()
        return before, after

    before, after = in_a_web_process(story)

    assert before == after
    assert order.id in before


@pytest.fixture
def redis_way(
    client: "redis.Redis", redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """What the web tier takes for Redis is a way to it that can be broken."""
    with FaultProxy((LOOPBACK, redis_server.port)) as proxy:
        monkeypatch.setattr(
            settings, "REDIS_URL", f"redis://:{redis_server.password}@{LOOPBACK}:{proxy.port}/0"
        )
        stores.web_redis.cache_clear()
        yield proxy
        stores.web_redis.cache_clear()


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def test_connections_that_were_reset_while_nobody_used_them_are_replaced_unnoticed(
    redis_way: FaultProxy, client: "redis.Redis", run: Callable[[Coroutine[Any, Any, Any]], Any]
) -> None:
    client.set("held", "unharmed")
    line = RedisLine()

    async def ask() -> list[Any]:
        script = 'return redis.call("GET", "held")'
        return [
            await stores.web_redis().get("held"),
            await line.evalsha(await line.script_load(script), 0),
        ]

    async def story() -> list[Any]:
        await ask()
        await asyncio.to_thread(redis_way.reset)
        for held in (*stores.web_redis().connection_pool._available_connections, line._connection):
            await asyncio.to_thread(wait_until, held._writer.is_closing, what="the loop to notice")
        again = await ask()
        await line.close()
        await stores.web_redis().connection_pool.aclose()
        return again

    assert in_a_web_process(story, run) == ["unharmed", "unharmed"]


def test_a_frozen_redis_is_given_up_and_what_it_answers_later_is_nobody_s_reply(
    client: "redis.Redis", redis_server: RedisServer
) -> None:
    mine, other = accepted(client, an_order(("A", 1)), an_order(("B", 1)))

    async def story() -> OrderState | None:
        assert await results.find(mine.id, "shop")
        with frozen(redis_server.pid), pytest.raises(StoreUnavailable):
            await results.find(mine.id, "shop")
        return await results.find(other.id, "shop")

    assert in_a_web_process(story).order == other


def test_a_cancellation_that_redis_has_not_heard_of_is_not_taken_back(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order((a_sku(stock=1), 1)))
    fulfilment.fulfil([order], client=client)
    names = [keys.order(order.id), keys.CANCELLATIONS, ""]
    scripts.run(client, "request_cancel", names, [order.id, order.client, 1, "", ""])
    books.cancel(order.id)  # and its worker dies

    async def story() -> OrderState | None:
        return await results.find(order.id, order.client)

    connection.close()
    assert client.hget(keys.order(order.id), "status") == Status.CONFIRMED
    assert in_a_web_process(story).status is Status.CANCELLED


# --- waiting for a result ---------------------------------------------------------------------------------


def test_whoever_waits_hears_of_what_was_settled_while_nobody_listened(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "BOOKS_AFTER_S", 100)  # a look at that moment would find it, too
    (order,) = accepted(client, an_order(("A", 1)))

    async def story() -> tuple[OrderState | None, float]:
        await results.find(order.id, "shop")  # from now on Redis has the script, and a look is one call
        looks = script_calls(client)
        waiting = asyncio.create_task(results.wait(order.id, "shop", 4))
        await asyncio.to_thread(wait_until, lambda: script_calls(client) > looks, what="its first look")
        began = time.monotonic()
        # The line is cut and the order settled in one step: nobody can have heard of it.
        cut = client.pipeline(transaction=True)
        cut.client_kill_filter(_type="pubsub")
        names, arguments = settled(order)
        cut.eval(scripts.text("settle"), len(names), *names, *arguments)
        cut.execute()
        return await waiting, time.monotonic() - began

    state, took_s = in_a_web_process(story)

    assert state.status is Status.CONFIRMED
    assert took_s < 3


def looks_of_one_who_waits(
    client: "redis.Redis", order: Order, publish: Callable[[], object]
) -> tuple[OrderState, int]:
    """What one who waits is told when this is published, and how often Redis ran a script for it after that."""

    async def story() -> tuple[OrderState | None, int]:
        waiting = asyncio.create_task(results.wait(order.id, order.client, 4))
        await asyncio.to_thread(wait_until, lambda: order.id in results.settlements._waiting)
        await results.find(order.id, order.client)  # shares the first look's trip, or has one after it
        publish()
        before = script_calls(client)
        return await waiting, script_calls(client) - before

    return in_a_web_process(story)


def test_whoever_waits_is_told_the_end_that_was_published_without_another_look(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order(("A", 1)))
    names, arguments = settled(order)
    arguments[4], arguments[6] = "rejected", '{"code":"unknown_sku","detail":"a word or two"}'

    state, looks = looks_of_one_who_waits(
        client, order, lambda: scripts.run(client, "settle", names, arguments)
    )

    assert looks == 0
    assert state == OrderState(
        order=order,
        status=Status.REJECTED,
        reason=Reason(ReasonCode.UNKNOWN_SKU, detail="a word or two"),
        updated_at_ms=1_000,
    )


@pytest.mark.parametrize(
    "line",
    [
        "{id} confirmed",
        "{id} confirmed 1000 another-order ",
        "{id} sold-at-auction 1000 {fingerprint} ",
        "{id} confirmed at-noon {fingerprint} ",
        '{id} rejected 1000 {fingerprint} {{"code": "a reason of tomorrow"}}',
    ],
)
def test_whoever_waits_looks_again_where_what_was_published_does_not_say_it_all(
    client: "redis.Redis", line: str
) -> None:
    (order,) = accepted(client, an_order(("A", 1)))
    names, arguments = settled(order)

    def publish() -> None:
        scripts.run(client, "settle", [*names[:3], "nobody listens here"], arguments)
        client.publish(keys.SETTLED_CHANNEL, line.format(id=order.id, fingerprint=order.fingerprint))

    with capture_logs() as told:
        state, looks = looks_of_one_who_waits(client, order, publish)

    assert told == []
    assert (state.status, state.updated_at_ms) == (Status.CONFIRMED, 1_000)
    assert looks == 1


def test_whoever_waits_hears_of_what_the_books_have_decided_though_redis_never_does(
    client: "redis.Redis",
) -> None:
    (order,) = accepted(client, an_order((a_sku(stock=1), 1)))
    books.decide([Question(order=order, intent=Intent.REJECTED)])  # and its worker dies
    connection.close()

    async def story() -> tuple[OrderState | None, float]:
        await results.wait(order.id, "nobody", 0)  # listens from here on
        began = time.monotonic()
        return await results.wait(order.id, order.client, 3), time.monotonic() - began

    state, took_s = in_a_web_process(story)

    assert client.hget(keys.order(order.id), "status") == Status.QUEUED
    assert state.status is Status.REJECTED
    assert results.BOOKS_AFTER_S <= took_s < 2.5


def test_without_asking_the_books_in_between_it_would_wait_to_the_end(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "BOOKS_AFTER_S", 100)

    with pytest.raises(AssertionError):
        test_whoever_waits_hears_of_what_the_books_have_decided_though_redis_never_does(client)


def test_who_has_waited_to_the_end_is_told_what_the_books_say(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "BOOKS_AFTER_S", 100)
    (order,) = accepted(client, an_order((a_sku(stock=1), 1)))
    books.decide([Question(order=order, intent=Intent.REJECTED)])
    connection.close()

    async def story() -> OrderState | None:
        return await results.wait(order.id, order.client, 0.2)

    assert in_a_web_process(story).status is Status.REJECTED


def test_without_looking_again_it_would_wait_to_the_end(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settlements, "_wake_all", lambda _: None)

    with pytest.raises(AssertionError):
        test_whoever_waits_hears_of_what_was_settled_while_nobody_listened(client, monkeypatch)


def test_a_listener_that_hears_no_sign_of_life_begins_anew(
    client: "redis.Redis", redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settlements, "SILENCE_S", 0.1)

    async def story() -> None:
        settlements = Settlements()
        async with settlements.watch("an order") as changed:
            with frozen(redis_server.pid):
                await asyncio.to_thread(wait_until, lambda: not settlements._subscribed.is_set())
            await changed
        await settlements.close()

    in_a_web_process(story)


def test_a_listener_that_hears_what_is_no_text_begins_anew_and_wakes_whoever_waits(
    client: "redis.Redis",
) -> None:
    async def story() -> None:
        watch = results.settlements.watch
        async with watch("an earlier order"), watch("an order") as changed:
            assert not changed.done()
            client.publish(keys.SETTLED_CHANNEL, b"\xff")
            async with asyncio.timeout(5):
                await changed

    in_a_web_process(story)


def test_an_order_settled_between_the_look_and_the_wait_wakes_whoever_waits(client: "redis.Redis") -> None:
    (order,) = accepted(client, an_order(("A", 1)))

    async def story() -> None:
        async with results.settlements.watch(order.id) as changed:
            state = await results.find(order.id, "shop")
            assert state is not None
            scripts.run(client, "settle", *settled(order))
            await changed

    in_a_web_process(story)


def test_a_thousand_who_wait_for_one_order_look_together(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    (order,) = accepted(client, an_order(("A", 1)))

    async def story() -> tuple[list[OrderState | None], int]:
        waiting = [asyncio.create_task(results.wait(order.id, "shop", 15)) for _ in range(1000)]
        watching = results.settlements._waiting
        await asyncio.to_thread(wait_until, lambda: len(watching.get(order.id, ())) == 1000)
        await results.find(order.id, "shop")
        before = script_calls(client)
        scripts.run(client, "settle", *settled(order))
        states = await asyncio.gather(*waiting)
        return states, script_calls(client) - before

    states, calls = in_a_web_process(story)

    assert {state.status for state in states} == {Status.CONFIRMED}
    assert calls < 10
