"""The Lua scripts one by one, and their headers held against their code."""

import re
import time
import uuid
from functools import partial
from importlib.resources import files
from typing import Any

import pytest
import redis

from shop import keys, scripts
from shop.domain import Status
from shop.stock import SETTLE_KEYS
from tests.builders import wait_until

NAMES = sorted(
    path.name.removesuffix(".lua") for path in (files("shop") / "lua").iterdir() if path.name.endswith(".lua")
)
QUEUE = "a-queue"


@pytest.mark.parametrize("name", NAMES)
def test_a_header_names_the_replies_that_the_code_gives(name: str) -> None:
    header, code = divided(name)
    promised = set(re.findall(r"'([a-z_]+)'", header.partition("REPLY")[2].split("\n--   '")[0]))
    given = set(re.findall(r"(?:return |= |\{)\{?'([a-z_]+)'[,}\s]", code + "\n"))
    given |= set(re.findall(r"return '([a-z_]+)'", code))
    given |= set(re.findall(r"and '([a-z_]+)' or '([a-z_]+)'", code))
    words = {word for word in given if isinstance(word, str)} - (
        {status.value for status in Status} - promised
    )
    if not promised:
        assert re.search(r"REPLY (\{|JSON, per order: \[)", header), "a reply without words says its shape"
        assert not re.search(r"return '\w", code)
    else:
        assert words == promised


@pytest.mark.parametrize("name", NAMES)
def test_a_header_names_the_keys_and_arguments_that_the_code_reads(name: str) -> None:
    header, code = divided(name)
    assert ("KEYS" in code) == ("-- KEYS" in header)
    assert ("ARGV" in code) == ("-- ARGV" in header)
    for kind in ("KEYS", "ARGV"):
        told = re.search(rf"-- {kind}(.*?)(?=-- [A-Z]{{4,}}|\Z)", header, re.DOTALL)
        numbers = {int(n) for n in re.findall(r"(?:^|[,;\s])(\d) [a-z]", told.group(1))} if told else set()
        read = {int(n) for n in re.findall(rf"{kind}\[(\d+)\]", code)}
        assert read <= numbers or not read


@pytest.mark.parametrize("name", ["accept", "read", "reserve", "settle"])
def test_a_script_that_answers_for_many_orders_does_so_in_one_text(name: str) -> None:
    header, code = divided(name)
    assert "-- REPLY JSON, per order: " in header
    assert re.search(r"^return (cjson\.encode\(replies\)|'\[' .. table\.concat)", code, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_one_verb_of_at_most_a_hundred_lines_without_randomness_or_time(name: str) -> None:
    _, code = divided(name)
    assert scripts.text(name).count("\n") <= 100
    assert not re.search(r"call\('(TIME|RANDOMKEY|SRANDMEMBER|KEYS|SCAN)'", code)


def divided(name: str) -> tuple[str, str]:
    """Header and code of a script."""
    lines = scripts.text(name).splitlines()
    end = next(at for at, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:end]), "\n".join(lines[end:])


# --- accept ---------------------------------------------------------------------------------------


def accept(client: "redis.Redis", *, order: str = "order-1", key: str = "key", **rules: Any) -> Any:
    """Accept one order; `rules`: those of `accept_together`, and fingerprint, before (other ids of it), booked."""
    fingerprint, before, booked = (
        rules.pop("fingerprint", "f"),
        rules.pop("before", ()),
        rules.pop("booked", ""),
    )
    return accept_together(client, ((order, *before), key, fingerprint), booked=booked, **rules)[0]


def accept_together(
    client: "redis.Redis", *orders: tuple[str | tuple[str, ...], str, str], **rules: Any
) -> Any:
    """Accept orders in one call, each `(id or ids, key, fingerprint)`; `rules`: now, limit (queue), rate, asked, booked."""
    names: list[str] = [keys.OPEN_ORDERS, QUEUE]
    now = rules.get("now", 1_000_000)
    each_ids = [(ids,) if isinstance(ids, str) else ids for ids, *_ in orders]
    args: list[Any] = [now, 100, rules.get("limit", 10), rules.get("rate", 0), now + 9, len(each_ids[0])]
    args.append("asked" if rules.get("asked", True) else "")
    for ids, (_, key, fingerprint) in zip(each_ids, orders, strict=True):
        names += [keys.idempotency("shop", key), keys.rate("shop"), *map(keys.order, ids)]
        args += [fingerprint, "shop", "document", f"message of {ids[0]}", rules.get("booked", ""), *ids]
    return scripts.run(client, "accept", names, args)


def test_accept_claims_records_and_enqueues_in_one_step(client: "redis.Redis") -> None:
    assert accept(client) == ["accepted"]

    assert client.get(keys.idempotency("shop", "key")) == "order-1"
    assert 0 < client.ttl(keys.idempotency("shop", "key")) <= 100
    assert client.hgetall(keys.order("order-1")) == {
        "status": "queued",
        "client": "shop",
        "fingerprint": "f",
        "document": "document",
        "updated_at": "1000000",
    }
    assert client.ttl(keys.order("order-1")) == -1
    assert client.zscore(keys.OPEN_ORDERS, "order-1") == 1_000_009
    assert client.lrange(QUEUE, 0, -1) == ["message of order-1"]


def test_accept_replays_the_same_order_and_refuses_another_without_a_second_message(
    client: "redis.Redis",
) -> None:
    accept(client)

    assert accept(client) == ["replayed", "order-1"]
    assert accept(client, fingerprint="other") == ["reused", "order-1"]
    assert client.llen(QUEUE) == 1


def test_accept_knows_what_it_has_just_accepted_in_the_same_call(client: "redis.Redis") -> None:
    replies = accept_together(
        client,
        ("first", "key", "f"),
        ("first", "key", "f"),
        ("first", "key", "other"),
        ("second", "its own key", "f"),
        limit=2,
    )
    late = accept_together(client, ("late", "a third key", "f"), ("first", "key", "f"), limit=2)

    assert replies == [["accepted"], ["replayed", "first"], ["reused", "first"], ["accepted"]]
    assert late == [["queue_full"], ["replayed", "first"]]
    assert client.lrange(QUEUE, 0, -1) == ["message of second", "message of first"]
    assert client.mget(keys.idempotency("shop", "key"), keys.idempotency("shop", "its own key")) == [
        "first",
        "second",
    ]
    assert client.zrange(keys.OPEN_ORDERS, 0, -1) == ["first", "second"]
    assert client.exists(keys.order("late")) == 0
    assert client.hget(keys.order("first"), "fingerprint") == "f"


def test_accept_leaves_nothing_half_done_where_the_queue_is_none(client: "redis.Redis") -> None:
    client.set(QUEUE, "no list")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        accept_together(client, ("first", "key", "f"), ("first", "key", "f"), ("second", "its own key", "f"))

    assert client.keys() == [QUEUE]


def test_accept_finds_the_order_again_when_only_the_key_was_lost(client: "redis.Redis") -> None:
    accept(client)
    client.delete(keys.idempotency("shop", "key"))

    assert accept(client) == ["replayed", "order-1"]
    assert client.get(keys.idempotency("shop", "key")) == "order-1"


def test_accept_finds_an_order_under_each_of_its_ids_and_keeps_the_one_that_its_key_had(
    client: "redis.Redis",
) -> None:
    accept(client, order="old")
    again = partial(accept, client, order="new", before=("older", "old"))

    assert [again(), again(fingerprint="other")] == [["replayed", "old"], ["reused", "old"]]
    client.delete(keys.idempotency("shop", "key"))
    assert again() == ["replayed", "old"]
    assert client.get(keys.idempotency("shop", "key")) == "old"
    client.delete(keys.order("old"))
    assert again() == ["lost", "old"]
    assert accept(client, order="old", before=("new", "older")) == ["accepted"]
    assert client.exists(keys.order("new"), keys.order("older")) == 0


def test_accept_takes_the_claimed_one_of_two_orders_that_one_key_should_never_have(
    client: "redis.Redis",
) -> None:
    accept(client, order="old")
    accept(client, order="new")

    assert accept(client, order="old", before=("new",)) == ["replayed", "new"]


@pytest.mark.parametrize("claim", ["of another order", "of nothing", "a list"])
def test_accept_overwrites_a_claim_that_is_none_of_its_ids(client: "redis.Redis", claim: str) -> None:
    accept(client, order="another", key="its own key")
    accept(client)
    name = keys.idempotency("shop", "key")

    for order, reply in (("order-1", ["replayed", "order-1"]), ("order-2", ["accepted"])):
        client.delete(name)
        if claim == "a list":
            client.rpush(name, order)
        else:
            client.set(name, "another" if claim == "of another order" else "nothing")
        assert accept(client, order=order) == reply
        assert client.get(name) == order
        assert 0 < client.ttl(name) <= 100

    assert client.llen(QUEUE) == 3


def test_accept_takes_postgresqls_word_for_an_order_and_claims_its_key(client: "redis.Redis") -> None:
    assert accept(client, booked="f") == ["replayed", "order-1"]
    assert accept(client, booked="other") == ["reused", "order-1"]
    assert client.get(keys.idempotency("shop", "key")) == "order-1"
    assert client.exists(keys.order("order-1"), QUEUE) == 0


def test_accept_makes_no_order_that_may_have_ended_while_postgresql_is_unavailable(
    client: "redis.Redis",
) -> None:
    accept(client)
    assert accept(client, asked=False) == ["replayed", "order-1"]

    client.delete(keys.order("order-1"))
    assert accept(client, asked=False) == ["unknown"]
    client.set(keys.idempotency("shop", "key"), "nothing")
    assert accept(client, asked=False) == ["unknown"]
    client.delete(keys.idempotency("shop", "key"))
    assert accept(client, asked=False, before=("old",)) == ["unknown"]
    assert client.keys("order:*") == []
    assert accept(client, asked=False) == ["accepted"]


def test_accept_refuses_over_the_queue_limit_and_leaves_the_key_unused(client: "redis.Redis") -> None:
    accept(client, order="order-1", key="1", limit=1)

    assert accept(client, order="order-2", key="2", limit=1) == ["queue_full"]
    assert client.exists(keys.idempotency("shop", "2"), keys.order("order-2")) == 0
    assert accept(client, order="order-1", key="1", limit=1) == ["replayed", "order-1"]


def test_accept_allows_a_second_s_burst_and_then_the_rate(client: "redis.Redis") -> None:
    replies = [accept(client, order=f"o{n}", key=f"{n}", rate=5)[0] for n in range(8)]
    waits = accept(client, order="late", key="late", rate=5)

    assert replies == ["accepted"] * 5 + ["rate_limited"] * 3
    assert (waits[0], 0 < waits[1] <= 200) == ("rate_limited", True)
    assert client.exists(keys.order("o7")) == 0
    assert 0 < client.pttl(keys.rate("shop")) <= 1000
    wait_until(lambda: accept(client, order="late", key="late", rate=5) == ["accepted"], timeout_s=5)


def test_accept_counts_rates_beyond_one_in_a_millisecond(client: "redis.Redis") -> None:
    began = time.monotonic()
    replies = [accept(client, order=f"o{n}", key=f"{n}", rate=4000, limit=10**6)[0] for n in range(400)]
    took_s = time.monotonic() - began

    # A quarter of a millisecond each, less what the bucket has gained meanwhile, and all of it in less than a burst.
    assert set(replies) == {"accepted"}
    assert 100 - took_s * 1000 - 5 <= max(0, client.pttl(keys.rate("shop"))) <= 101


# --- reserve, settle ------------------------------------------------------------------------------


def queued(client: "redis.Redis", *orders: str) -> None:
    """Order records as after their acceptance."""
    for order in orders:
        client.hset(keys.order(order), mapping={"status": "queued", "fingerprint": "f"})
        client.zadd(keys.OPEN_ORDERS, {order: 1})


def reserve(
    client: "redis.Redis",
    *orders: tuple[Any, ...],
    ttl: int = 5000,
    attempts: int = 5,
    in_company: int | None = None,
    attempt_ms: int = 5000,
    call: str = "",
) -> Any:
    """Reserve for orders, each `(id, sku, units, sku, units, ...)`."""
    args: list[Any] = [
        *(call or uuid.uuid4().hex, ttl, attempts),
        *(attempts if in_company is None else in_company, attempt_ms, 2000),
    ]
    for order, *lines in orders:
        args += [order, len(lines) // 2, *lines]
    *replies, _history = scripts.run(client, "reserve", [keys.OPEN_ORDERS], args)
    return replies


def settle(
    client: "redis.Redis",
    *orders: tuple[str, str],
    stock: tuple[tuple[str, int | str, int | str], ...] = (),
    waiting: tuple[tuple[str, str], ...] = (),
    locks: tuple[str, ...] = (),
    epoch: str = "",
) -> Any:
    """Settle orders, each `(id, status)`, publish stock, each `(sku, version, free)`; `waiting`: `(id, reserving call)`."""
    holders = dict(zip(locks[::2], locks[1::2], strict=True))
    unseen = [(sku, "-", "-") for sku in holders if sku not in {each[0] for each in stock}]
    args: list[Any] = [100, len(orders), epoch]
    for order, status in orders:
        args += [order, status, 3000, "", "f"]
    args.append(len(stock) + len(unseen))
    for sku, version, free in (*stock, *unseen):
        args += [sku, version, free, holders.get(sku, "")]
    for each in waiting:
        args += each
    return scripts.run(client, "settle", list(SETTLE_KEYS), args)


def test_reserve_takes_the_units_of_all_lines_and_their_locks(client: "redis.Redis") -> None:
    queued(client, "a")
    client.mset({"estoque:x": 10, "estoque:y": 5})

    assert reserve(client, ("a", "x", 8, "y", 5)) == [["reserved", "x", "y"]]
    assert client.mget("estoque:x", "estoque:y") == ["2", "0"]
    assert client.mget(keys.lock("x"), keys.lock("y")) == ["a", "a"]
    assert 0 < client.pttl(keys.lock("x")) <= 5000


def test_reserve_puts_off_the_next_look_at_what_it_takes_and_reopens_nothing(client: "redis.Redis") -> None:
    queued(client, "a", "ended meanwhile")
    client.zrem(keys.OPEN_ORDERS, "ended meanwhile")
    client.set("estoque:x", 10)

    reserve(client, ("a", "x", 1), ("ended meanwhile", "x", 1))

    assert client.zrange(keys.OPEN_ORDERS, 0, -1, withscores=True) == [("a", 2000)]


def test_reserve_takes_nothing_when_one_line_is_short(client: "redis.Redis") -> None:
    queued(client, "a")
    client.mset({"estoque:x": 10, "estoque:y": 4})

    assert reserve(client, ("a", "x", 8, "y", 5)) == [["short"]]
    assert client.mget("estoque:x", "estoque:y") == ["10", "4"]
    assert client.exists(keys.lock("x"), keys.lock("y")) == 0


def test_reserve_leaves_no_partial_set_of_locks_behind_a_foreign_lock(client: "redis.Redis") -> None:
    queued(client, "a")
    client.mset({"estoque:x": 10, "estoque:y": 10})
    client.set(keys.lock("y"), "somebody", px=1000)

    assert reserve(client, ("a", "x", 1, "y", 1)) == [["busy", "y"]]
    assert client.mget(keys.lock("x"), keys.lock("y"), "estoque:x") == [None, "somebody", "10"]
    assert client.hget(keys.order("a"), "attempts") is None


def test_an_order_that_meets_a_lock_is_busy_and_never_short(client: "redis.Redis") -> None:
    queued(client, "a")
    client.mset({"estoque:x": 0, "estoque:y": 10})
    client.set(keys.lock("y"), "somebody", px=1000)

    assert reserve(client, ("a", "x", 1, "y", 1)) == [["busy", "y"]]


def test_reserve_shares_a_lock_within_one_call_and_serves_the_first_order_first(
    client: "redis.Redis",
) -> None:
    queued(client, "a", "b", "c")
    client.set("estoque:x", 10)

    replies = reserve(client, ("a", "x", 8), ("b", "x", 8), ("c", "x", 2))

    assert replies == [["reserved", "x"], ["short"], ["reserved"]]
    assert client.get(keys.lock("x")) == "a"


def test_reserve_gives_each_order_of_one_call_what_those_before_it_left(client: "redis.Redis") -> None:
    queued(client, "a", "b", "c")
    client.mset({"estoque:x": 10, "estoque:y": 1})

    replies = reserve(client, ("a", "x", 4), ("b", "x", 5, "y", 1), ("c", "x", 1, "y", 1))

    assert replies == [["reserved", "x"], ["reserved", "y"], ["short"]]
    assert client.mget("estoque:x", "estoque:y") == ["1", "0"]


#: Lines of an order, of which a thousand have more counters than Lua hands over at once.
LINES = "vwxyz"


def test_a_call_takes_as_many_orders_as_its_header_says(client: "redis.Redis") -> None:
    many = [f"order-{n}" for n in range(1_000)]
    skus = [f"{order}-{line}" for order in many for line in LINES]
    client.mset({f"estoque:{sku}": 1 for sku in skus})

    accepted = accept_together(client, *((order, order, "f") for order in many), limit=1_000)
    reserved = reserve(
        client, *((order, *(part for line in LINES for part in (f"{order}-{line}", 1))) for order in many)
    )
    locks = [
        part
        for order, (_, *held) in zip(many, reserved, strict=True)
        for sku in held
        for part in (sku, order)
    ]
    settled = settle(
        client,
        *((order, "failed") for order in many),
        stock=tuple((sku, 2, 7) for sku in skus),
        locks=tuple(locks),
    )

    assert accepted == [["accepted"]] * 1_000
    assert {reply[0] for reply in reserved} == {"reserved"}
    assert settled == [["settled"]] * 1_000
    assert client.exists(keys.OPEN_ORDERS, keys.lock("order-999-z")) == 0
    assert client.mget("estoque:order-999-z", "version:order-999-z") == ["7", "0:2"]


NO_NUMBERS = ["1e3", "abc", "", "9007199254740993", " 5", "007", "-0", "--5", "12.5", "\u00b2"]


@pytest.mark.parametrize("counter", [None, *NO_NUMBERS])
def test_reserve_takes_nothing_off_a_counter_that_is_no_plain_integer_and_goes_on(
    client: "redis.Redis", counter: str | None
) -> None:
    queued(client, "a")
    client.set("estoque:y", 10)
    if counter is not None:
        client.set("estoque:x", counter)

    assert reserve(client, ("a", "x", 1, "y", 1)) == [["reserved", "x", "y"]]
    assert client.mget("estoque:x", "estoque:y") == [counter, "9"]


def test_reserve_knows_orders_that_ended_were_lost_cancelled_or_tried_too_often(
    client: "redis.Redis",
) -> None:
    queued(client, "ended", "cancelled", "tried")
    client.hset(keys.order("ended"), "status", "confirmed")
    client.hset(keys.order("cancelled"), "cancel", "1")
    client.hset(keys.order("tried"), "attempts", 5)
    client.set("estoque:x", 10)

    replies = reserve(client, *((order, "x", 1) for order in ("ended", "cancelled", "tried", "lost")))

    assert replies == [["ended", "confirmed"], ["cancelled"], ["exhausted"], ["unrecorded"]]
    assert client.get("estoque:x") == "10"
    assert client.exists(keys.order("lost")) == 0


@pytest.mark.parametrize("units", [1, 11], ids=["in stock", "short"])
def test_reserve_gives_no_order_up_that_has_made_its_last_attempt_just_now(
    client: "redis.Redis", units: int
) -> None:
    queued(client, "a")
    client.set("estoque:x", 10)
    ((first, *_),) = reserve(client, ("a", "x", units), attempts=1)

    assert first in {"reserved", "short"}
    assert reserve(client, ("a", "x", units), attempts=1) == [["held"]]
    assert 0 < client.pttl(keys.last_attempt("a")) <= 5000
    client.delete(keys.last_attempt("a"))
    assert reserve(client, ("a", "x", units), attempts=1) == [["exhausted"]]
    assert client.hget(keys.order("a"), "attempts") == "1"


def test_reserve_leaves_the_last_attempt_of_an_order_to_be_made_alone(client: "redis.Redis") -> None:
    queued(client, "a", "b")
    client.set("estoque:x", 10)
    client.hset(keys.order("a"), "attempts", 4)

    a, b = reserve(client, ("a", "x", 1), ("b", "x", 1), in_company=4)

    assert (a, b) == (["held"], ["reserved", "x"])
    assert client.hget(keys.order("a"), "attempts") == "4"
    assert client.get("estoque:x") == "9"
    client.delete(keys.lock("x"))
    assert reserve(client, ("a", "x", 1)) == [["reserved", "x"]]


def test_reserve_counts_no_attempt_when_it_is_asked_again_because_its_answer_was_lost(
    client: "redis.Redis",
) -> None:
    queued(client, "a")
    client.set("estoque:x", 10)

    replies = [reserve(client, ("a", "x", 1), call="the same", attempts=1) for _ in range(2)]

    assert replies == [[["reserved", "x"]]] * 2
    assert client.hget(keys.order("a"), "attempts") == "1"


def test_settle_takes_back_the_attempt_of_an_order_that_must_wait_once(client: "redis.Redis") -> None:
    queued(client, "a")
    for call in ("first", "second"):
        reserve(client, ("a", "x", 1), call=call)

    for _ in range(2):
        settle(client, waiting=(("a", "second"), ("nobody", "second")))

    assert client.hget(keys.order("a"), "attempts") == "1"
    assert client.exists(keys.order("nobody")) == 0


def test_settle_ends_the_record_of_an_order_and_shows_what_postgresql_has(client: "redis.Redis") -> None:
    queued(client, "a")
    client.set("estoque:x", 10)
    reserve(client, ("a", "x", 8))

    assert settle(client, ("a", "confirmed"), stock=(("x", 2, 3),), locks=("x", "a")) == [["settled"]]
    assert client.mget("estoque:x", keys.version("x")) == ["3", "0:2"]
    assert client.exists(keys.lock("x"), keys.OPEN_ORDERS) == 0
    assert client.hget(keys.order("a"), "status") == "confirmed"
    assert 0 < client.ttl(keys.order("a")) <= 100


def test_stock_that_is_published_late_twice_or_out_of_order_ends_the_same(client: "redis.Redis") -> None:
    for version, free in ((3, 25), (2, 20), (3, 25), (1, 10)):
        settle(client, stock=(("x", version, free),))

    assert client.mget("estoque:x", keys.version("x")) == ["25", "0:3"]


def test_an_order_that_ends_with_an_older_version_leaves_no_counter_that_lacks_its_units(
    client: "redis.Redis",
) -> None:
    queued(client, "a")
    settle(client, stock=(("x", 3, 25),))
    reserve(client, ("a", "x", 1))  # a copy of its message; the worker that decided it sleeps

    replies = settle(client, ("a", "confirmed"), stock=(("x", 2, 26),))

    assert replies == [["settled"], ["outdated", "x"]]
    assert client.mget("estoque:x", keys.version("x")) == [None, "0:3"]
    settle(client, stock=(("x", 3, 25),))
    assert client.get("estoque:x") == "25"


def test_stock_of_the_same_version_is_written_over_what_somebody_edited(client: "redis.Redis") -> None:
    settle(client, stock=(("x", 3, 25),))
    client.set("estoque:x", 32)

    settle(client, stock=(("x", 3, 25),))

    assert client.get("estoque:x") == "25"


@pytest.mark.parametrize("epoch", [None, "4", "garbage"])
def test_a_version_of_another_epoch_is_an_old_one(client: "redis.Redis", epoch: str | None) -> None:
    client.mset({"estoque:x": 99, keys.version("x"): "3:1000"})
    if epoch:
        client.set(keys.EPOCH, epoch)

    settle(client, stock=(("x", 2, 20),))

    assert client.mget("estoque:x", keys.version("x")) == ["20", f"{epoch or 0}:2"]


@pytest.mark.parametrize("counter", [*NO_NUMBERS, ["a list"]])
@pytest.mark.parametrize("name", [keys.stock("x"), keys.version("x")])
def test_whatever_somebody_has_put_under_a_counter_or_its_version_is_written_over(
    client: "redis.Redis", name: str, counter: str | list[str]
) -> None:
    client.rpush(name, *counter) if isinstance(counter, list) else client.set(name, counter)

    settle(client, stock=(("x", 2, 20),))

    assert client.mget("estoque:x", keys.version("x")) == ["20", "0:2"]


def test_a_sku_that_postgresql_does_not_know_has_no_counter(client: "redis.Redis") -> None:
    client.mset({"estoque:x": 5, keys.version("x"): "0:1"})

    settle(client, stock=(("x", "", ""),))

    assert client.exists("estoque:x", keys.version("x")) == 0


def test_settle_never_takes_a_state_back_but_for_cancelling(client: "redis.Redis") -> None:
    queued(client, "a")

    replies = [
        settle(client, ("a", status))[0] for status in ("confirmed", "rejected", "cancelled", "confirmed")
    ]

    assert replies == [["settled"], ["kept", "confirmed"], ["settled"], ["kept", "cancelled"]]


def test_settle_publishes_no_confirmation_of_an_order_that_was_cancelled_meanwhile(
    client: "redis.Redis",
) -> None:
    queued(client, "a")
    client.hset(keys.order("a"), "cancel", "1")

    assert settle(client, ("a", "confirmed")) == [["cancel_requested"]]
    assert client.hget(keys.order("a"), "status") == "queued"


@pytest.mark.parametrize("end", ["rejected", "failed"])
def test_settle_publishes_an_end_that_no_cancellation_replaces(client: "redis.Redis", end: str) -> None:
    queued(client, "a")
    client.hset(keys.order("a"), "cancel", "1")
    client.zadd(keys.CANCELLATIONS, {"a": 1})

    assert settle(client, ("a", end)) == [["settled"]]
    assert client.hmget(keys.order("a"), "status", "cancel") == [end, None]
    assert client.exists(keys.CANCELLATIONS) == 0


def test_settle_releases_only_its_own_locks_and_tells_who_waits(client: "redis.Redis") -> None:
    queued(client, "a", "b")
    client.set(keys.lock("x"), "a", px=1000)
    client.set(keys.lock("y"), "somebody", px=1000)
    with client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(keys.SETTLED_CHANNEL)
        heard.get_message(timeout=1)

        settle(client, ("a", "confirmed"), ("b", "rejected"), locks=("x", "a", "y", "a"))

        message = heard.get_message(timeout=1)
    assert message is not None
    assert message["data"] == "a confirmed 3000 f \nb rejected 3000 f "
    assert client.mget(keys.lock("x"), keys.lock("y")) == [None, "somebody"]


@pytest.mark.parametrize("name", [keys.OPEN_ORDERS, keys.CANCELLATIONS])
def test_settle_leaves_nothing_half_done_where_a_journal_is_none(client: "redis.Redis", name: str) -> None:
    queued(client, "a")
    client.delete(name)
    client.set(name, "no journal")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        settle(client, ("a", "rejected"), stock=(("x", 2, 3),))

    assert client.hget(keys.order("a"), "status") == "queued"
    assert client.exists("estoque:x") == 0


# --- read -----------------------------------------------------------------------------------------


def test_read_shows_orders_as_their_clients_see_them_and_nothing_of_what_is_not_whole_or_not_theirs(
    client: "redis.Redis",
) -> None:
    records: dict[str, dict[str, Any]] = {
        "a": {"document": '{"id":"a"}', "status": "queued", "updated_at": 1},
        "b": {"document": "2", "status": "rejected", "updated_at": 3, "reason": "{}"},
        "c": {"document": "2", "status": "queued", "updated_at": 3, "cancel": "1"},
        "d": {"document": "2", "status": "confirmed", "updated_at": 3, "reason": ""},
        "torn": {"document": "2", "updated_at": 3},
        "foreign": {"document": "2", "status": "confirmed", "updated_at": 3, "client": "another"},
    }
    for name, record in records.items():
        client.hset(keys.order(name), mapping={"client": "shop", **record})
    names = [keys.order(name) for name in (*records, "missing")]

    replies = scripts.run(client, "read", names, ["shop"] * len(names))

    assert replies == [
        [{"id": "a"}, "queued", None, 1, False],
        [2, "rejected", {}, 3, False],
        [2, "queued", None, 3, True],
        [2, "confirmed", None, 3, False],
        None,
        None,
        None,
    ]


# --- the small ones -------------------------------------------------------------------------------


def test_restore_writes_a_lost_record_and_never_over_an_existing_one(client: "redis.Redis") -> None:
    args = ["a", "shop", "f", "document", 1, 2]

    assert scripts.run(client, "restore", [keys.order("a"), keys.OPEN_ORDERS], args) == "restored"
    client.hset(keys.order("a"), "status", "confirmed")
    assert scripts.run(client, "restore", [keys.order("a"), keys.OPEN_ORDERS], args) == "present"
    assert client.hget(keys.order("a"), "status") == "confirmed"


def test_requeue_leaves_orders_alone_that_ended(client: "redis.Redis") -> None:
    queued(client, "a")

    args = [5, 77, "a", "a's message", "ended", "another"]

    assert scripts.run(client, "requeue", [keys.OPEN_ORDERS, QUEUE], args) == ["a"]
    assert (client.lrange(QUEUE, 0, -1), client.zscore(keys.OPEN_ORDERS, "a")) == (["a's message"], 77)
    assert client.hget(keys.order("a"), "enqueued_at") == "5"
    assert scripts.run(client, "requeue", [keys.OPEN_ORDERS, QUEUE], [5, 77, "ended", "another"]) == []


@pytest.mark.parametrize(
    ("status", "client_name", "reply", "flag", "messages"),
    [
        ("queued", "shop", "requested", "1", 0),
        ("confirmed", "shop", "requested", None, 1),
        ("cancelled", "shop", "cancelled", None, 0),
        ("rejected", "shop", "refused", None, 0),
        ("failed", "shop", "refused", None, 0),
        ("queued", "stranger", "unknown", None, 0),
    ],
)
def test_request_cancel_depends_on_the_state_and_the_owner(
    client: "redis.Redis", status: str, client_name: str, reply: str, flag: str | None, messages: int
) -> None:
    client.hset(keys.order("a"), mapping={"status": status, "client": "shop"})
    names = [keys.order("a"), keys.CANCELLATIONS, QUEUE]

    replies = [
        scripts.run(client, "request_cancel", names, ["a", client_name, 1, "message", ""]) for _ in range(2)
    ]

    assert replies == [reply, reply]
    assert (client.hget(keys.order("a"), "cancel"), client.llen(QUEUE)) == (flag, messages)


def test_request_cancel_takes_the_books_word_for_an_order_redis_forgot(client: "redis.Redis") -> None:
    names = [keys.order("a"), keys.CANCELLATIONS, QUEUE]

    assert scripts.run(client, "request_cancel", names, ["a", "shop", 1, "message", ""]) == "unknown"
    assert scripts.run(client, "request_cancel", names, ["a", "shop", 1, "message", "rejected"]) == "refused"
    assert (
        scripts.run(client, "request_cancel", names, ["a", "shop", 1, "message", "confirmed"]) == "requested"
    )
    assert client.lrange(QUEUE, 0, -1) == ["message"]
