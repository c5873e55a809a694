"""Negative controls: each safeguard is switched off once, and the test that watches it must turn red.

A row names the safeguard, the script or statement that holds it, what is taken out of it, and the test.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from typing import Any

import msgspec
import pytest
import redis
from django.db import IntegrityError, connection

from shop import continuity, fulfilment, keys, pauses, scripts, stores
from shop.books import Intent
from shop.domain import Status
from tests import (
    test_books,
    test_claims,
    test_clocks,
    test_continuity,
    test_fulfilment,
    test_lua,
    test_movements,
    test_oracles,
    test_parking,
    test_pauses,
    test_sweeper,
)
from tests.builders import wipe_books

Watch = Callable[..., None]

#: How a test fails whose safeguard is gone.
RED = (
    AssertionError,
    pytest.fail.Exception,
    redis.ResponseError,
    IntegrityError,
    msgspec.ValidationError,
    stores.StoreUnavailable,
)

CONTROLS: list[tuple[str, str, str, str, Watch]] = [
    (
        "a lock is released only by its holder",
        "settle.lua",
        "if owner ~= '' and found[n + 1] == owner then",
        "if owner ~= '' then",
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
        "if before[id] >= allowed and call('EXISTS', 'last_attempt:' .. id) == 0 then",
        "if before[id] >= allowed then",
        partial(
            test_fulfilment.test_an_order_whose_last_attempt_is_at_work_is_not_given_up_by_a_copy_of_its_message,
            stock=1,
            end=Status.REJECTED,
        ),
    ),
    (
        "an attempt is counted before anything that may fail",
        "reserve.lua",
        "replies[#replies + 1] = at, begin(ARGV[at]) or false",
        "replies[#replies + 1] = at, false",
        test_fulfilment.test_an_order_whose_reserving_always_fails_is_given_up_as_one_that_kills_its_workers,
    ),
    (
        "a call that has reserved and is asked again counts one attempt",
        "reserve.lua",
        "if counted == nonce then",
        "if false then",
        test_lua.test_reserve_counts_no_attempt_when_it_is_asked_again_because_its_answer_was_lost,
    ),
    (
        "the last attempt of an order is made alone",
        "reserve.lua",
        "if before[id] >= in_company then return {'held'} end",
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
        "an order takes all its lines or none",
        "reserve.lua",
        "if is_short then return {'short'} end",
        "",
        test_lua.test_reserve_takes_nothing_when_one_line_is_short,
    ),
    (
        "an order gets what those before it in the call left",
        "reserve.lua",
        "local free = left[sku] or found",
        "local free = found",
        test_lua.test_reserve_gives_each_order_of_one_call_what_those_before_it_left,
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
        "AND o.status = 'confirmed' FOR NO KEY",
        "AND o.status IN ('confirmed', 'rejected') FOR NO KEY",
        test_books.test_cancelling_what_is_not_there_or_was_rejected_changes_nothing,
    ),
    (
        "an order is given up after so many attempts",
        "reserve.lua",
        "if before[id] >= allowed and",
        "if false and",
        test_fulfilment.test_an_order_that_kills_its_workers_is_given_up_when_it_can_be_at_work_no_more_and_frees_its_stock,
    ),
    (
        "what Redis does not count with is no counter",
        "reserve.lua",
        "(free == '0' or string.match(free, '^-?[1-9]%d*$')) and #free <= 15",
        "tonumber(free)",
        partial(
            test_lua.test_reserve_takes_nothing_off_a_counter_that_is_no_plain_integer_and_goes_on,
            counter="007",
        ),
    ),
    (
        "an older version changes no counter",
        "settle.lua",
        "return of == epoch and tonumber(number) > tonumber(version)",
        "return false",
        test_lua.test_stock_that_is_published_late_twice_or_out_of_order_ends_the_same,
    ),
    (
        "an order that ends late leaves no counter that lacks its units",
        "settle.lua",
        "elseif free ~= '-' and #news > 0 then",
        "elseif false then",
        test_lua.test_an_order_that_ends_with_an_older_version_leaves_no_counter_that_lacks_its_units,
    ),
    (
        "a counter of the same version is written over",
        "settle.lua",
        "tonumber(number) > tonumber(version)",
        "tonumber(number) >= tonumber(version)",
        test_lua.test_stock_of_the_same_version_is_written_over_what_somebody_edited,
    ),
    (
        "a version of another epoch is an old one",
        "settle.lua",
        "return of == epoch and",
        "return of and",
        partial(test_lua.test_a_version_of_another_epoch_is_an_old_one, epoch="4"),
    ),
    (
        "an order that ends makes way for those parked for its locks",
        "settle.lua",
        "if #due > 0 then",
        "if false then",
        test_parking.test_an_order_that_ends_makes_way_for_those_parked_for_its_locks,
    ),
    (
        "an order that must wait itself wakes nobody",
        "settle.lua",
        "if done[owner] then",
        "if true then",
        test_parking.test_an_order_that_must_wait_itself_wakes_nobody,
    ),
    (
        "what was decided in an earlier epoch is not published",
        "settle.lua",
        "if ARGV[3] ~= '' and ARGV[3] ~= epoch then",
        "if false then",
        test_continuity.test_what_one_decided_that_went_back_since_is_not_published,
    ),
    (
        "a PostgreSQL that went back decides nothing",
        "decide",
        "IF NOT shop_continues(followed) THEN",
        "IF false THEN",
        test_continuity.test_one_that_went_back_decides_nothing_until_it_is_what_clients_were_told,
    ),
    (
        "a PostgreSQL that went back does not count on",
        "tick.sql",
        "WHERE shop_continues(%(followed)s::text)",
        "WHERE shop_continues(%(followed)s::text) OR true",
        test_continuity.test_one_that_is_behind_by_little_is_not_taken_for_a_continuation_however_often_it_is_looked_at,
    ),
    (
        "a PostgreSQL whose place was taken is on another branch",
        "tick.sql",
        "branch = coalesce(nullif(excluded.branch, ''), h.branch)",
        "branch = h.branch",
        test_continuity.test_one_whose_place_was_taken_is_not_followed_again_however_far_it_has_counted,
    ),
    (
        "a process that froze does not have the old PostgreSQL followed again",
        "follow.lua",
        "if (redis.call('MGET', KEYS[1])[1] or '') ~= ARGV[1] then return 'kept' end",
        "",
        test_continuity.test_a_process_that_froze_over_its_look_has_nobody_follow_the_old_one_again,
    ),
    (
        "a PostgreSQL that went back takes no movement",
        "move.sql",
        "sku = %(sku)s AND shop_continues(%(followed)s::text)",
        "sku = %(sku)s",
        test_continuity.test_a_delivery_is_put_off_until_postgresql_is_followed_again_and_counts_then,
    ),
    (
        "no movement of an earlier epoch is published",
        "settle.lua",
        "if ARGV[3] ~= '' and ARGV[3] ~= epoch then",
        "if false then",
        partial(
            test_continuity.test_what_one_wrote_that_went_back_since_is_not_published_by_a_process_that_froze,
            point="movement.after_books",
        ),
    ),
    (
        "PostgreSQL serves orders in turn",
        "decide",
        "free[place] := free[place] - line_units[line];",
        "",
        test_books.test_orders_of_one_call_are_served_in_turn_and_a_refused_one_takes_nothing_from_the_next,
    ),
    (
        "a row that somebody holds is waited for by nobody",
        "decide",
        "FOR NO KEY UPDATE OF p SKIP LOCKED\n    )",
        "FOR NO KEY UPDATE OF p\n    )",
        test_books.test_a_row_that_somebody_holds_blocks_its_own_orders_alone,
    ),
    (
        "units of a row that is not locked are not taken",
        "decide",
        "NOT is_locked[place]",
        "false",
        test_books.test_a_row_that_somebody_holds_blocks_its_own_orders_alone,
    ),
    (
        "an order keeps its first row",
        "decide",
        "intents[r.place] := 'known';",
        "",
        test_books.test_the_first_row_of_an_order_stands_and_the_second_writer_learns_it,
    ),
    (
        "units are taken for rows alone that this call inserted",
        "decide",
        "ORDER BY o.id;\n",
        "ORDER BY o.id ON CONFLICT DO NOTHING;\n",
        partial(
            test_books.test_a_row_that_another_call_writes_at_the_same_moment_is_the_order_s_end,
            beside=Intent.CANCELLED,
        ),
    ),
    (
        "units are taken at a glance for rows alone that this call inserted",
        "decide",
        "ORDER BY o.id;  --",
        "ORDER BY o.id ON CONFLICT DO NOTHING;  --",
        partial(
            test_books.test_a_row_that_another_call_writes_at_the_same_moment_is_the_order_s_end,
            beside=Intent.TAKE,
        ),
    ),
    (
        "PostgreSQL says no where Redis said so only if it agrees",
        "decide",
        "CASE intents[at] WHEN 'short' THEN 'again' ELSE 'confirmed' END",
        "CASE intents[at] WHEN 'short' THEN 'rejected' ELSE 'confirmed' END",
        test_books.test_an_order_that_redis_called_short_is_rejected_only_where_postgresql_agrees,
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
        "a full Redis lets orders in hand be reserved",
        "reserve.lua",
        "call('ZREM', KEYS[1], '')",
        "call('ZCARD', KEYS[1])",
        test_fulfilment.test_a_full_redis_lets_an_order_in_hand_end,
    ),
    (
        "a full Redis lets orders in hand be settled",
        "settle.lua",
        "call('ZREM', KEYS[at], '')",
        "call('ZCARD', KEYS[at])",
        test_fulfilment.test_a_full_redis_lets_an_order_in_hand_end,
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
        "AND o.status = 'confirmed' FOR NO KEY",
        "FOR NO KEY",
        test_fulfilment.test_cancelling_returns_the_units_once_however_often_it_is_done,
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
        if where == "decide":
            make_function(guard, instead)
            return
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
    make_function("", "")


def make_function(guard: str, instead: str) -> None:
    """Have PostgreSQL decide by `0006_decide.sql` with `instead` in the place of its safeguard."""
    whole = (files("shop") / "migrations" / "0006_decide.sql").read_text()
    assert guard in whole, "0006_decide.sql no longer holds this safeguard in these words"
    with connection.cursor() as cursor:
        cursor.execute(whole.replace(guard, instead) if guard else whole)


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

    with pytest.raises(RED):
        run(watch, client, monkeypatch)


def run(watch: Watch, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> None:
    """Call a test with the fixtures it asks for; Redis follows PostgreSQL, since sweeps have counted."""
    for _ in range(3):
        continuity.continues(client)
    function: Any = watch.func if isinstance(watch, partial) else watch
    given = {"client": client, "monkeypatch": monkeypatch}
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    watch(**{name: given[name] for name in wanted if name in given})


def test_without_postgresqls_constraint_a_wrong_function_oversells(client: "redis.Redis") -> None:
    condition = "CHECK (confirmed >= 0 AND confirmed <= on_sale)"
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_product DROP CONSTRAINT product_not_oversold")
        try:
            with pytest.raises(pytest.fail.Exception):
                test_books.test_postgresql_s_constraint_refuses_by_itself_to_oversell()
        finally:
            cursor.execute("UPDATE shop_product SET on_sale = confirmed WHERE confirmed > on_sale")
            cursor.execute(f"ALTER TABLE shop_product ADD CONSTRAINT product_not_oversold {condition}")


def test_without_forgiveness_an_outage_uses_up_an_orders_attempts(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fulfilment, "_forgiven", lambda _: {})

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        test_fulfilment.test_a_store_that_is_away_costs_an_order_no_attempt(client, monkeypatch)


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


def test_without_its_eye_on_the_park_the_sweeper_enqueues_all_that_wait_there(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "PARKED", "nothing")

    with pytest.raises(AssertionError):
        test_sweeper.test_a_parked_order_is_not_enqueued_again(client)


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
