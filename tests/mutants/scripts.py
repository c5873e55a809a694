"""Single lines of scripts and statements that the table of promises does not name."""

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final = (
    Mutant(
        name="an order that is accepted claims its key",
        file="shop/lua/accept.lua",
        text="call('SET', claims[i], ARGV[at + 6], 'EX', ttl)",
        instead="",
        tests=("tests/test_lua.py::test_accept_claims_records_and_enqueues_in_one_step",),
    ),
    Mutant(
        name="an order that is accepted is in the journal",
        file="shop/lua/accept.lua",
        text="  call('ZADD', KEYS[1], unpack(opened))\n",
        instead="",
        tests=("tests/test_lua.py::test_accept_claims_records_and_enqueues_in_one_step",),
    ),
    Mutant(
        name="of two ids with orders the claimed one counts",
        file="shop/lua/accept.lua",
        text="if found and (not known or ARGV[id + n] == claimed) then",
        instead="if found and not known then",
        tests=(
            "tests/test_lua.py::test_accept_takes_the_claimed_one_of_two_orders_that_one_key_should_never_have",
        ),
    ),
    Mutant(
        name="a rate may be more than one order in a millisecond",
        file="shop/lua/accept.lua",
        text="string.format('%.3f', life - next_until_full)",
        instead="'0'",
        tests=("tests/test_lua.py::test_accept_counts_rates_beyond_one_in_a_millisecond",),
    ),
    Mutant(
        name="reserving takes units off",
        file="shop/lua/reserve.lua",
        text="left[sku] = taken[sku] or left[sku]",
        instead="left[sku] = left[sku]",
        tests=("tests/test_lua.py::test_reserve_takes_the_units_of_all_lines_and_their_locks",),
    ),
    Mutant(
        name="an order that has ended reserves nothing",
        file="shop/lua/reserve.lua",
        text="return status and {'ended', status} or {'unrecorded'} end",
        instead="return status and {'ended', status} end",
        tests=(
            "tests/test_lua.py::test_reserve_knows_orders_that_ended_were_lost_cancelled_or_tried_too_often",
        ),
    ),
    Mutant(
        name="reserving counts an attempt",
        file="shop/lua/reserve.lua",
        text="'attempts', before[id] + 1, 'call', nonce)",
        instead="'attempts', before[id], 'call', nonce)",
        tests=(
            "tests/test_lua.py::test_reserve_counts_no_attempt_when_it_is_asked_again_because_its_answer_was_lost",
        ),
    ),
    Mutant(
        name="the last attempt has its time",
        file="shop/lua/reserve.lua",
        text="call('SET', 'last_attempt:' .. id, '', 'PX', ARGV[5])",
        instead="call('SET', 'last_attempt:' .. id, '')",
        tests=("tests/test_lua.py::test_reserve_gives_no_order_up_that_has_made_its_last_attempt_just_now",),
    ),
    Mutant(
        name="a counter beyond what Lua counts is none",
        file="shop/lua/reserve.lua",
        text=" and #free <= 15 then",
        instead=" then",
        tests=(
            "tests/test_lua.py::test_reserve_takes_nothing_off_a_counter_that_is_no_plain_integer_and_goes_on",
        ),
    ),
    Mutant(
        name="orders of one call share a lock",
        file="shop/lua/reserve.lua",
        text="if lock_ttl > 0 and not owners[sku] then",
        instead="if lock_ttl > 0 then",
        tests=(
            "tests/test_lua.py::test_reserve_shares_a_lock_within_one_call_and_serves_the_first_order_first",
        ),
    ),
    Mutant(
        name="an order that is being decided is not looked for",
        file="shop/lua/reserve.lua",
        text="if #sweeps > 0 then call('ZADD', KEYS[1], 'XX', unpack(sweeps)) end",
        instead="",
        tests=(
            "tests/test_lua.py::test_reserve_puts_off_the_next_look_at_what_it_takes_and_reopens_nothing",
        ),
    ),
    Mutant(
        name="counters are written by the thousand",
        file="shop/lua/reserve.lua",
        text="for from = 1, #counters, 1000 do call('MSET', unpack(counters, from, math.min(from + 999, #counters))) end",
        instead="for from = 1, #counters, 10000 do call('MSET', unpack(counters, from, #counters)) end",
        tests=("tests/test_lua.py::test_a_call_takes_as_many_orders_as_its_header_says",),
    ),
    Mutant(
        name="an order that has ended leaves the journal",
        file="shop/lua/settle.lua",
        text="if #ended > 0 then call('ZREM', KEYS[1], unpack(ended)) end",
        instead="",
        tests=("tests/test_lua.py::test_settle_ends_the_record_of_an_order_and_shows_what_postgresql_has",),
    ),
    Mutant(
        name="an end that was published is told",
        file="shop/lua/settle.lua",
        text="if #news > 0 then call('PUBLISH', KEYS[4], table.concat(news, '\\n')) end",
        instead="",
        tests=("tests/test_lua.py::test_settle_releases_only_its_own_locks_and_tells_who_waits",),
    ),
    Mutant(
        name="a cancellation that came too late is closed",
        file="shop/lua/settle.lua",
        text="if #not_confirmed > 0 then call('ZREM', KEYS[2], unpack(not_confirmed)) end",
        instead="",
        tests=("tests/test_lua.py::test_settle_publishes_an_end_that_no_cancellation_replaces",),
    ),
    Mutant(
        name="a lock is released when its order has ended",
        file="shop/lua/settle.lua",
        text="gone[#gone + 1] = names[n + 1]",
        instead="",
        tests=("tests/test_lua.py::test_settle_releases_only_its_own_locks_and_tells_who_waits",),
    ),
    Mutant(
        name="settling looks at its journals before it writes",
        file="shop/lua/settle.lua",
        text="for at = 1, 2 do call('ZREM', KEYS[at], '') end",
        instead="",
        tests=("tests/test_lua.py::test_settle_leaves_nothing_half_done_where_a_journal_is_none",),
    ),
    Mutant(
        name="a record that is there is not written over",
        file="shop/lua/restore.lua",
        text="if redis.call('HEXISTS', KEYS[1], 'status') == 1 then return 'present' end",
        instead="",
        tests=("tests/test_lua.py::test_restore_writes_a_lost_record_and_never_over_an_existing_one",),
    ),
    Mutant(
        name="a cancellation is asked for once",
        file="shop/lua/request_cancel.lua",
        text="if redis.call('ZADD', KEYS[2], 'NX', ARGV[3], ARGV[1]) == 0 then return 'requested' end",
        instead="redis.call('ZADD', KEYS[2], 'NX', ARGV[3], ARGV[1])",
        tests=("tests/test_lua.py::test_request_cancel_depends_on_the_state_and_the_owner",),
    ),
    Mutant(
        name="a queued order carries the request to cancel it",
        file="shop/lua/request_cancel.lua",
        text="redis.call('HSET', KEYS[1], 'cancel', '1')",
        instead="",
        tests=("tests/test_lua.py::test_request_cancel_depends_on_the_state_and_the_owner",),
    ),
    Mutant(
        name="an order that is to be cancelled does not read as confirmed",
        file="shop/lua/read.lua",
        text="tostring(cancel ~= false)",
        instead="'false'",
        tests=(
            "tests/test_lua.py::test_read_shows_orders_as_their_clients_see_them_and_nothing_of_what_is_not_whole_or_not_theirs",
        ),
    ),
    Mutant(
        name="another server's history is no continuation",
        file="shop/migrations/0006_decide_in_postgresql.py",
        text=" AND split_part(followed, ' ', 1) = shop_lineage() || ':' || branch",
        instead="",
        tests=(
            "tests/test_continuity.py::test_another_timeline_is_no_continuation_however_far_it_has_counted",
        ),
        is_slow=True,
    ),
    Mutant(
        name="what is put back is in hand no more",
        file="workers/lua/put_back.lua",
        text="call('HDEL', KEYS[1], ARGV[at])",
        instead="",
        tests=("tests/test_transport.py::test_what_is_put_back_is_first_in_line_again_as_if_never_fetched",),
    ),
    Mutant(
        name="what is acknowledged already is not parked",
        file="workers/lua/park.lua",
        text="  if record then\n",
        instead="  if true then record = record or ''\n",
        tests=("tests/test_parking.py::test_what_is_acknowledged_or_restored_already_is_not_parked",),
    ),
    Mutant(
        name="what is parked is in nobody's hands",
        file="workers/lua/park.lua",
        text="    call('HDEL', KEYS[1], tag)\n",
        instead="",
        tests=("tests/test_parking.py::test_a_parked_message_is_in_nobody_s_hands_and_comes_back_as_it_was",),
    ),
    Mutant(
        name="a catalogue gives known products no stock",
        file="shop/sql/add_products.sql",
        text="ON CONFLICT (sku) DO NOTHING",
        instead="ON CONFLICT (sku) DO UPDATE SET on_sale = excluded.on_sale",
        tests=("tests/test_catalogue.py::test_known_products_get_a_new_name_and_price_and_keep_their_stock",),
    ),
    Mutant(
        name="opening stock is in the ledger",
        file="shop/sql/add_products.sql",
        text="SELECT sku, 'opening', on_sale, %(reason)s FROM added",
        instead="SELECT sku, 'opening', on_sale + 1, %(reason)s FROM added",
        tests=("tests/test_catalogue.py::test_new_products_get_their_opening_stock_and_can_be_ordered",),
    ),
    Mutant(
        name="a revoked key opens nothing",
        file="shop/sql/api_keys.sql",
        text=" AND revoked_at IS NULL",
        instead="",
        tests=("tests/test_clients.py::test_a_revoked_key_that_redis_forgot_opens_nothing",),
        is_slow=True,
    ),
    Mutant(
        name="a sale is in the ledger",
        file="shop/migrations/0006_decide.sql",
        text="WHERE intents[l.place] IN ('take', 'book') AND outcomes[l.place] = 'confirmed';",
        instead="WHERE intents[l.place] = 'take' AND outcomes[l.place] = 'confirmed';",
        tests=("tests/test_books.py::test_an_order_is_booked_again_only_where_its_units_are_free",),
    ),
    Mutant(
        name="an order is booked again only where its units are free",
        file="shop/migrations/0006_decide.sql",
        text="ELSIF intents[at] = 'book' AND verdict <> 'blocked' THEN",
        instead="ELSIF false THEN",
        tests=("tests/test_books.py::test_an_order_is_booked_again_only_where_its_units_are_free",),
    ),
    Mutant(
        name="a version grows with each sale",
        file="shop/migrations/0006_decide.sql",
        text="SET confirmed = p.on_sale - s.free, version = p.version + 1",
        instead="SET confirmed = p.on_sale - s.free",
        tests=(
            "tests/test_books.py::test_orders_of_one_call_are_served_in_turn_and_a_refused_one_takes_nothing_from_the_next",
        ),
    ),
    Mutant(
        name="a version grows with each movement",
        file="shop/sql/move.sql",
        text="version = version + 1, ",
        instead="",
        tests=(
            "tests/test_reconciliation.py::test_a_movement_that_did_not_reach_redis_is_explained_and_mended",
        ),
    ),
    Mutant(
        name="a version grows with each cancellation",
        file="shop/sql/cancel.sql",
        text="version = product.version + 1, ",
        instead="",
        tests=(
            "tests/test_books.py::test_a_cancellation_waits_for_no_row_and_changes_nothing_where_one_is_held",
        ),
    ),
)
