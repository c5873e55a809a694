"""Negative controls: each safeguard is switched off once, and the test that watches it must turn red.

A row names the safeguard, the script or statement that holds it, what is taken out of it, and the test.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
from django.db import connection

from shop import fulfilment, pauses, scripts, stores
from shop.domain import Status
from tests import (
    test_books,
    test_claims,
    test_clocks,
    test_fulfilment,
    test_lua,
    test_movements,
    test_oracles,
    test_pauses,
    test_sweeper,
)
from tests.builders import wipe_books

Watch = Callable[..., None]

CONTROLS: list[tuple[str, str, str, str, Watch]] = [
    (
        "a lock is released only by its holder",
        "settle.lua",
        "if holder == ARGV[from + 2 * n - 1] then",
        "if true then",
        test_fulfilment.test_a_holder_that_froze_past_its_lock_does_not_release_the_next_holders,
    ),
    (
        "a foreign lock is respected",
        "reserve.lua",
        "if holder and holder ~= id then",
        "if false then",
        test_fulfilment.test_an_order_behind_a_foreign_lock_waits_and_touches_nothing,
    ),
    (
        "no order is given up that was begun just now",
        "reserve.lua",
        "if attempts >= allowed and call('EXISTS', 'last_attempt:' .. id) == 0 then",
        "if attempts >= allowed then",
        partial(
            test_fulfilment.test_an_order_whose_last_attempt_is_at_work_is_not_given_up_by_a_copy_of_its_message,
            stock=1,
            end=Status.REJECTED,
        ),
    ),
    (
        "a call that has reserved and is asked again counts one attempt",
        "reserve.lua",
        "token ~= new_token and refused",
        "refused",
        test_lua.test_reserve_counts_no_attempt_when_it_is_asked_again_because_its_answer_was_lost,
    ),
    (
        "the last attempt of an order is made alone",
        "reserve.lua",
        "if attempts >= in_company then return {'held'} end",
        "",
        test_fulfilment.test_an_order_that_shared_the_batches_of_one_that_kills_workers_makes_its_last_attempt_alone,
    ),
    (
        "a lock expires by itself",
        "reserve.lua",
        "id, 'PX', lock_ttl)",
        "id)",
        test_fulfilment.test_the_lock_is_held_from_reserving_until_the_commit_is_settled,
    ),
    (
        "locks are taken all or none",
        "lock.lua",
        "if holder and holder ~= ARGV[1] then return 'busy' end",
        "if holder and holder ~= ARGV[1] then return 'busy' end\n  redis.call('SET', key, ARGV[1])",
        test_lua.test_locks_are_taken_together_and_released_only_by_their_holder,
    ),
    (
        "an order takes all its lines or none",
        "reserve.lua",
        "if refusal or #short > 1 then return refusal or short end",
        "if refusal then return refusal end",
        test_fulfilment.test_an_order_takes_every_line_or_none,
    ),
    (
        "an order gets what those before it in the call left",
        "reserve.lua",
        "left[ARGV[at]] or found[at + 1 - before]",
        "found[at + 1 - before]",
        test_lua.test_reserve_gives_each_order_of_one_call_what_those_before_it_left,
    ),
    (
        "reserving is idempotent by order id",
        "reserve.lua",
        "held and 0 or last",
        "last",
        test_lua.test_reserve_twice_takes_once_and_keeps_the_token,
    ),
    (
        "a missing counter means not loaded",
        "reserve.lua",
        "if not free or (free",
        "free = free or '0'\n      if (free",
        test_fulfilment.test_a_counter_that_is_missing_means_not_loaded_and_not_zero,
    ),
    (
        "a reservation that Redis lost is noticed",
        "settle.lua",
        "and open and (back or not held) then",
        "and false then",
        partial(
            test_fulfilment.test_whatever_redis_loses_under_a_worker_the_books_stay_exact,
            lost="everything",
            step="before the decision",
        ),
    ),
    (
        "a lost reservation takes its counters with it",
        "settle.lua",
        "    forget(skus_if_lost)",
        "",
        test_fulfilment.test_a_loss_accepted_late_leaves_no_counter_that_a_second_loss_has_brought_back,
    ),
    (
        "a record is ended only where it is of the order in the books",
        "settle.lua",
        "if was and recorded ~= fingerprint then",
        "if false then",
        partial(
            test_fulfilment.test_a_key_that_redis_lost_and_took_for_another_order_shows_the_one_in_the_books,
            worker="goes on",
        ),
    ),
    (
        "nothing is given back in a call that cannot give back all",
        "settle.lua",
        "cjson.decode(held[n]) end",
        "held[n] end",
        test_lua.test_settle_does_nothing_where_a_reservation_cannot_be_read,
    ),
    (
        "units come back only to a counter that is loaded",
        "settle.lua",
        "if free and (free == '0' or string.match(free, '^-?[1-9]%d*$')) and #free <= 15 then",
        "if true then",
        test_lua.test_settle_adds_nothing_to_a_counter_that_is_not_loaded,
    ),
    (
        "what Redis does not count with is no counter",
        "settle.lua",
        "(free == '0' or string.match(free, '^-?[1-9]%d*$'))",
        "string.match(free, '^-?%d+$')",
        partial(test_lua.test_a_counter_that_is_no_number_keeps_no_order_from_its_end, counter="007"),
    ),
    (
        "a state never goes back",
        "settle.lua",
        "if not open and not (was == 'confirmed' and status == 'cancelled') then return {'kept', was} end",
        "",
        test_fulfilment.test_a_worker_that_wakes_up_after_the_order_ended_changes_nothing,
    ),
    (
        "a cancellation that came while the worker confirmed is carried out",
        "settle.lua",
        "status == 'confirmed' and cancel then return {'cancel_requested'} end",
        "false then return {'cancel_requested'} end",
        partial(
            test_fulfilment.test_a_cancellation_of_a_queued_order_is_carried_out_unless_it_is_rejected_meanwhile,
            moment=test_fulfilment.MEANWHILE,
            wanted=1,
            end=Status.CANCELLED,
        ),
    ),
    (
        "a cancellation replaces no rejection",
        "cancel.sql",
        "AND status = 'confirmed'",
        "AND status IN ('confirmed', 'rejected')",
        test_books.test_cancelling_what_is_not_there_or_was_rejected_changes_nothing,
    ),
    (
        "an order is given up after so many attempts",
        "reserve.lua",
        "if attempts >= allowed and",
        "if false and",
        test_fulfilment.test_an_order_that_kills_its_workers_is_given_up_when_it_can_be_at_work_no_more_and_frees_its_stock,
    ),
    (
        "of two loads of a SKU the older one is void",
        "finish_load.lua",
        "if call('HGET', KEYS[2], 'loading') ~= ARGV[1] then return 'changed' end",
        "",
        partial(test_lua.test_a_load_begins_again_when_anything_changed, change="another load"),
    ),
    (
        "a load begins again when a reservation ended under it",
        "finish_load.lua",
        "if not held or cjson.decode(held)[1] ~= ARGV[at + 1] then return 'changed' end",
        "",
        partial(test_lua.test_a_load_begins_again_when_anything_changed, change="the reservation ended"),
    ),
    (
        "an older stock level changes nothing",
        "sync_level.lua",
        "if tonumber(version) >= tonumber(ARGV[1]) then return 'current' end",
        "",
        test_lua.test_levels_applied_late_twice_or_out_of_order_end_the_same,
    ),
    (
        "a level takes no reserved units",
        "sync_level.lua",
        "if free + difference < 0 then return 'later' end",
        "",
        test_lua.test_a_level_never_takes_units_that_are_reserved,
    ),
    (
        "a key stands for one order",
        "accept.lua",
        "if found == ARGV[at + 1] then",
        "if found then",
        test_lua.test_accept_replays_the_same_order_and_refuses_another_without_a_second_message,
    ),
    (
        "a call that is refused has claimed no key",
        "accept.lua",
        " and not fingerprints[known] then call(",
        " then call(",
        test_lua.test_accept_leaves_nothing_half_done_where_the_queue_is_none,
    ),
    (
        "a key stands for one order within one call",
        "accept.lua",
        "fingerprints[ARGV[id + n]] or redis.pcall(",
        "redis.pcall(",
        test_lua.test_accept_knows_what_it_has_just_accepted_in_the_same_call,
    ),
    (
        "the order record remembers what its key forgot",
        "accept.lua",
        "redis.pcall('HGET', KEYS[record + n], 'fingerprint')",
        "(claimed and redis.pcall('HGET', KEYS[record + n], 'fingerprint'))",
        test_lua.test_accept_finds_the_order_again_when_only_the_key_was_lost,
    ),
    (
        "a key stands for an id that a secret derives from it",
        "accept.lua",
        "counts = counts or ARGV[id + n] == claimed",
        "counts = claimed",
        partial(test_lua.test_accept_overwrites_a_claim_that_is_none_of_its_ids, claim="of nothing"),
    ),
    (
        "a claim that is none is overwritten",
        "accept.lua",
        "if found and claimed ~= known and",
        "if found and not claimed and",
        partial(test_lua.test_accept_overwrites_a_claim_that_is_none_of_its_ids, claim="of another order"),
    ),
    (
        "an id that a key had is kept",
        "accept.lua",
        "if counts and claimed ~= ARGV[at + 6] then return {'lost', claimed} end",
        "",
        test_lua.test_accept_finds_an_order_under_each_of_its_ids_and_keeps_the_one_that_its_key_had,
    ),
    (
        "an order is looked for under each of its ids",
        "accept.lua",
        "for n = 0, ids - 1 do",
        "for n = 0, 0 do",
        test_lua.test_accept_finds_an_order_under_each_of_its_ids_and_keeps_the_one_that_its_key_had,
    ),
    (
        "an order is looked for under its own id",
        "accept.lua",
        "redis.pcall('HGET', KEYS[record + n], 'fingerprint')",
        "redis.pcall('HGET', 'order:' .. (claimed or ARGV[id + n]), 'fingerprint')",
        partial(
            test_claims.test_whatever_stands_under_a_key_it_has_one_order, lie="another uuid", age="queued"
        ),
    ),
    (
        "an order that Redis has forgotten is looked for in PostgreSQL",
        "fingerprints.sql",
        "WHERE id = ANY",
        "WHERE false AND id = ANY",
        partial(
            test_claims.test_whatever_stands_under_a_key_it_has_one_order, lie="no uuid", age="ended long ago"
        ),
    ),
    (
        "copies of a movement under two ids take turns",
        "movement_turn.sql",
        "pg_advisory_xact_lock(hashtextextended(request, 0))",
        "request",
        partial(test_movements.test_copies_of_a_movement_under_two_ids_take_turns_and_count_once, delta=5),
    ),
    (
        "a movement is looked for under each of its ids",
        "movement.sql",
        "%(requests)s::uuid[]",
        "(%(requests)s::uuid[])[1:1]",
        partial(test_movements.test_a_movement_is_found_under_an_id_that_its_key_had_before, delta=5),
    ),
    (
        "PostgreSQL's word counts",
        "accept.lua",
        "if found == '' then known,",
        "do known,",
        test_lua.test_accept_takes_postgresqls_word_for_an_order_and_claims_its_key,
    ),
    (
        "a key that is claimed makes no order while PostgreSQL is unavailable",
        "accept.lua",
        "(ids > 1 or call('EXISTS', claim) == 1)",
        "ids > 1",
        test_lua.test_accept_makes_no_order_that_may_have_ended_while_postgresql_is_unavailable,
    ),
    (
        "a key of several ids makes no order while PostgreSQL is unavailable",
        "accept.lua",
        "(ids > 1 or call('EXISTS', claim) == 1)",
        "call('EXISTS', claim) == 1",
        test_lua.test_accept_makes_no_order_that_may_have_ended_while_postgresql_is_unavailable,
    ),
    (
        "a client has a rate",
        "accept.lua",
        "if rate == 0 then return false end",
        "do return false end",
        test_lua.test_accept_allows_a_second_s_burst_and_then_the_rate,
    ),
    (
        "the queue has a limit",
        "accept.lua",
        "if waiting + #accepted >= queue_limit then return {'queue_full'} end",
        "",
        test_lua.test_accept_refuses_over_the_queue_limit_and_leaves_the_key_unused,
    ),
    (
        "an order that ended is not enqueued again",
        "requeue.lua",
        "if call('ZSCORE', KEYS[1], id) then",
        "if true then",
        test_lua.test_requeue_leaves_orders_alone_that_ended,
    ),
    (
        "units return once",
        "cancel.sql",
        "AND status = 'confirmed'",
        "",
        test_fulfilment.test_cancelling_returns_the_units_once_however_often_it_is_done,
    ),
    (
        "an unknown SKU can't be sold by the books",
        "persist.sql",
        "WHERE version = 0)",
        "WHERE false)",
        test_books.test_the_books_refuse_a_sku_that_does_not_exist,
    ),
    (
        "products are counted in SKU order",
        "persist.sql",
        """ ORDER BY sku COLLATE "C\"""",
        "",
        test_books.test_products_are_counted_in_the_order_of_their_skus,
    ),
    (
        "a paused intake takes nothing",
        "accept.lua",
        "if paused then return {'paused'} end",
        "",
        test_pauses.test_a_paused_intake_takes_nothing_new_and_leaves_the_key_unused,
    ),
    (
        "a paused fulfilment begins nothing",
        "reserve.lua",
        "if paused then return {'paused'} end",
        "",
        test_pauses.test_a_paused_fulfilment_takes_no_unit_and_counts_no_attempt,
    ),
    (
        "no bucket stays empty when Redis's clock was set back",
        "accept.lua",
        "if until_full > 1000 then until_full = 0 end",
        "",
        test_clocks.test_a_bucket_that_a_clock_filled_for_hours_counts_as_full,
    ),
    (
        "Redis does no more for a foreign order than for an unknown one",
        "read.lua",
        "if client == ARGV[at] then",
        "do",
        test_oracles.test_another_client_s_order_costs_the_stores_what_an_unknown_one_costs,
    ),
    (
        "PostgreSQL does no more for a foreign order than for an unknown one",
        "orders.sql",
        " AND o.client = ANY(%(clients)s::text[])",
        "",
        test_oracles.test_another_client_s_order_costs_the_stores_what_an_unknown_one_costs,
    ),
]


@pytest.fixture(autouse=True)
def books_wiped_afterwards() -> Iterator[None]:
    """What a system without its safeguard wrote must not stay in the books of other tests."""
    yield
    wipe_books()


@pytest.fixture
def switched_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Take a safeguard out of a script or statement for one test."""

    def switch_off(where: str, guard: str, instead: str) -> None:
        name, kind = where.split(".")
        read = scripts.text if kind == "lua" else stores.sql
        whole = read(name)
        assert guard in whole, f"{where} no longer holds this safeguard in these words"
        weak = whole.replace(guard, instead)
        module, function = (scripts, "text") if kind == "lua" else (stores, "sql")
        monkeypatch.setattr(module, function, lambda wanted: weak if wanted == name else read(wanted))
        forget_scripts()

    yield switch_off
    forget_scripts()


def forget_scripts() -> None:
    scripts._sync.cache_clear()
    scripts._asynchronous.cache_clear()


@pytest.mark.parametrize(
    ("where", "guard", "instead", "watch"), [row[1:] for row in CONTROLS], ids=[row[0] for row in CONTROLS]
)
def test_without_its_safeguard_the_test_that_watches_it_turns_red(
    client: "redis.Redis",
    monkeypatch: pytest.MonkeyPatch,
    switched_off: Callable[[str, str, str], None],
    where: str,
    guard: str,
    instead: str,
    watch: Watch,
) -> None:
    switched_off(where, guard, instead)

    with pytest.raises((AssertionError, redis.ResponseError, pytest.fail.Exception)):
        run(watch, client, monkeypatch)


def run(watch: Watch, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> None:
    """Call a test with the fixtures it asks for."""
    function: Any = watch.func if isinstance(watch, partial) else watch
    given = {"client": client, "monkeypatch": monkeypatch}
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    watch(**{name: given[name] for name in wanted if name in given})


def test_without_postgresqls_constraint_a_wrong_counter_in_redis_oversells(client: "redis.Redis") -> None:
    condition = "CHECK (confirmed >= 0 AND confirmed <= on_sale)"
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_product DROP CONSTRAINT product_not_oversold")
        try:
            with pytest.raises(AssertionError):
                test_fulfilment.test_redis_promising_too_much_cannot_oversell(client)
        finally:
            cursor.execute("UPDATE shop_product SET on_sale = confirmed WHERE confirmed > on_sale")
            cursor.execute(f"ALTER TABLE shop_product ADD CONSTRAINT product_not_oversold {condition}")


def test_without_forgiveness_an_outage_uses_up_an_orders_attempts(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fulfilment, "forgive", lambda *_, **__: None)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_fulfilment.test_a_store_that_is_away_costs_an_order_no_attempt(client, monkeypatch)


def test_without_noting_first_what_was_reserved_an_outage_uses_up_the_attempts_of_neighbours(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fulfilment, "_LACKING", ())

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_fulfilment.test_an_order_whose_stock_cannot_be_loaded_costs_its_neighbours_no_attempt(
            client, monkeypatch
        )


def test_without_a_way_of_its_own_an_order_that_was_begun_takes_its_neighbours_along(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    from shop import queue

    monkeypatch.setattr(queue, "repeated_message", lambda order, **_: queue.fulfil_message(order))

    with pytest.raises(AssertionError):
        test_sweeper.test_an_order_that_was_begun_and_has_not_ended_is_enqueued_to_go_alone(client)


def test_without_the_moment_in_its_message_an_order_that_was_enqueued_again_hides_those_that_are_lost(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    from shop import queue

    monkeypatch.setattr(queue, "repeated_message", lambda order, **_: queue.fulfil_message(order))

    with pytest.raises(AssertionError):
        test_sweeper.test_lost_orders_behind_those_that_were_enqueued_again_are_found(client)


def test_without_its_eye_on_the_head_of_the_line_the_sweeper_enqueues_all_that_wait(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    from shop import sweeper

    monkeypatch.setattr(sweeper, "_head_enqueued_at_ms", lambda _: None)

    with pytest.raises(AssertionError):
        test_sweeper.test_orders_that_merely_wait_in_a_long_line_are_not_enqueued_again(client)


def test_without_its_eye_on_the_clocks_the_sweeper_leaves_lost_orders_for_hours(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    from shop import sweeper

    monkeypatch.setattr(sweeper, "mind_clocks", lambda *_: None)

    with pytest.raises(AssertionError):
        test_clocks.test_a_lost_order_of_a_web_process_whose_clock_is_ahead_is_found_in_time(client)


def test_without_its_eye_on_pauses_the_sweeper_enqueues_what_workers_hold(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "is_paused", lambda *_: False)

    with pytest.raises(AssertionError):
        test_pauses.test_the_sweeper_enqueues_nothing_while_fulfilment_is_paused(client)
