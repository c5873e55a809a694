"""Guards of what PostgreSQL decides, and of who asks it."""

from typing import Final

from tests.mutants.mutant import Mutant

DECIDE: Final = "shop/migrations/0006_decide.sql"
MIGRATION: Final = "shop/migrations/0006_decide_in_postgresql.py"

MUTANTS: Final = (
    Mutant(
        promise="No oversell",
        name="an order that wants more than is free is rejected",
        file=DECIDE,
        text="ELSIF free[place] < line_units[line] AND verdict <> 'blocked' THEN",
        instead="ELSIF false THEN",
        tests=(
            "tests/test_books.py::test_orders_of_one_call_are_served_in_turn_and_a_refused_one_takes_nothing_from_the_next",
            "tests/test_fulfilment.py::test_an_order_takes_every_line_or_none",
        ),
    ),
    Mutant(
        promise="No oversell",
        name="units of orders that are taken at a glance are counted",
        file=DECIDE,
        text="SET confirmed = p.confirmed + s.total, version = p.version + 1",
        instead="SET version = p.version + 1",
        tests=(
            "tests/test_fulfilment.py::test_ten_units_and_two_simultaneous_orders_for_eight_confirm_exactly_one",
            "tests/test_fulfilment.py::test_five_hundred_buyers_get_a_hundred_units",
        ),
    ),
    Mutant(
        promise="No oversell",
        name="orders are taken at a glance only where there is enough for all",
        file=DECIDE,
        text="AND locked = to_lock AND is_enough AND",
        instead="AND locked = to_lock AND",
        tests=("tests/test_fulfilment.py::test_redis_promising_too_much_cannot_oversell",),
    ),
    Mutant(
        promise="No oversell",
        name="PostgreSQL's constraint keeps a movement from what is confirmed",
        file="shop/migrations/0001_initial.py",
        text="('confirmed__lte', models.F('on_sale'))",
        instead="('confirmed__lte', models.F('on_sale') + 1000)",
        tests=(
            "tests/test_movements.py::test_a_movement_takes_nothing_that_is_confirmed",
            "tests/test_products_api.py::test_a_movement_takes_nothing_that_is_promised",
            "tests/test_books.py::test_postgresql_s_constraint_refuses_by_itself_to_oversell",
        ),
    ),
    Mutant(
        promise="No order is refused",
        name="PostgreSQL is asked where Redis calls an order short",
        file="shop/fulfilment.py",
        text="batch.questions.append(Question(order=order, intent=Intent.SHORT))",
        instead="batch.questions.append(Question(order=order, intent=Intent.REJECTED))",
        tests=(
            "tests/test_fulfilment.py::test_a_counter_that_somebody_edited_refuses_no_order_that_postgresql_can_confirm",
        ),
    ),
    Mutant(
        promise="No order is refused",
        name="a movement that PostgreSQL did not take has failed for its client",
        file="shop/movements.py",
        text='with store_faults():\n            reach("movement.before_books")',
        instead='if True:\n            reach("movement.before_books")',
        tests=(
            "tests/test_movements.py::test_a_movement_that_can_t_be_written_takes_nothing_and_refuses_no_order",
        ),
    ),
    Mutant(
        promise="No order is refused",
        name="counters that were wrong are reserved from again at once",
        file="shop/fulfilment.py",
        text="batch.is_worth_another_round = True",
        instead="pass",
        tests=(
            "tests/test_fulfilment.py::test_a_counter_that_somebody_edited_refuses_no_order_that_postgresql_can_confirm",
        ),
    ),
    Mutant(
        promise="An order is decided once",
        name="an order's id is taken once, whenever its copies were accepted",
        file=MIGRATION,
        text='("id", models.UUIDField(primary_key=True, serialize=False)),',
        instead='("pk", models.CompositePrimaryKey("id", "accepted_at")), ("id", models.UUIDField()),',
        tests=(
            "tests/test_books.py::test_a_row_that_another_call_writes_at_the_same_moment_is_the_order_s_end",
        ),
    ),
    Mutant(
        promise="An order is decided once",
        name="a call that meets an id that is taken takes nothing at a glance",
        file=DECIDE,
        text="ORDER BY o.id;  --",
        instead="ORDER BY o.id ON CONFLICT DO NOTHING;  --",
        tests=("tests/test_fulfilment.py::test_the_same_order_given_to_many_workers_counts_once",),
    ),
    Mutant(
        promise="An order is decided once",
        name="an order is looked for by its id, whenever its copy was accepted",
        file=DECIDE,
        text="JOIN shop_order AS s ON s.accepted_at = i.accepted_at AND s.id = i.id",
        instead="JOIN shop_order AS s ON s.accepted_at = to_timestamp(accepted_ms[o.place] / 1000.0) AND s.id = i.id",
        tests=("tests/test_books.py::test_a_copy_that_was_accepted_later_finds_the_order_that_is_there",),
    ),
    Mutant(
        promise="An order is decided once",
        name="ids of orders from before the migration are taken",
        file=MIGRATION,
        text="        migrations.RunSQL(IDENTITIES, migrations.RunSQL.noop),\n",
        instead="",
        tests=("tests/test_migrations.py::test_orders_and_requests_from_before_are_there_once_afterwards",),
    ),
    Mutant(
        promise="An order is decided once",
        name="a decision that met another one looks once more",
        file="shop/books.py",
        text="if not _has_met_another(error):",
        instead="if True:",
        tests=("tests/test_books.py::test_the_first_row_of_an_order_stands_and_the_second_writer_learns_it",),
    ),
    Mutant(
        promise="All lines or none",
        name="an order that misses a row takes none of its other lines",
        file=DECIDE,
        text="verdict := 'blocked';",
        instead="verdict := verdict;",
        tests=("tests/test_books.py::test_a_row_that_somebody_holds_blocks_its_own_orders_alone",),
    ),
    Mutant(
        name="an order that can't be stored leaves its neighbours theirs",
        file="shop/fulfilment.py",
        text="        if len(questions) == 1:\n            log.error(",
        instead="        if True:\n            return Decisions(outcomes={each.order.id: refusal for each in questions})\n"
        "            log.error(",
        tests=(
            "tests/test_fulfilment.py::test_an_order_that_can_t_be_stored_is_held_and_its_neighbours_end",
        ),
    ),
    Mutant(
        promise="Units return exactly once",
        name="a cancellation that did not lock all its rows changes none",
        file="shop/sql/cancel.sql",
        text=" AND (SELECT count(*) FROM locked) = (SELECT count(*) FROM line)",
        instead="",
        tests=(
            "tests/test_books.py::test_a_cancellation_waits_for_no_row_and_changes_nothing_where_one_is_held",
        ),
    ),
    Mutant(
        name="a cancellation waits for no product row",
        file="shop/sql/cancel.sql",
        text="ORDER BY product.sku FOR NO KEY UPDATE SKIP LOCKED",
        instead="ORDER BY product.sku FOR NO KEY UPDATE",
        tests=(
            "tests/test_books.py::test_a_cancellation_waits_for_no_row_and_changes_nothing_where_one_is_held",
        ),
    ),
    Mutant(
        promise="A counter in Redis follows",
        name="counters that were dropped are published anew",
        file="shop/fulfilment.py",
        text="stock.refresh(client, replies.pop()[1:])",
        instead="replies.pop()",
        tests=(
            "tests/test_fulfilment.py::test_counters_that_an_end_which_came_late_dropped_are_published_anew",
        ),
    ),
    Mutant(
        promise="A product row that another",
        name="a call at a glance waits for no row",
        file=DECIDE,
        text="FOR NO KEY UPDATE OF p SKIP LOCKED\n    )",
        instead="FOR NO KEY UPDATE OF p\n    )",
        tests=(
            "tests/test_fulfilment.py::test_an_order_whose_row_somebody_holds_waits_alone",
            "tests/test_books.py::test_a_row_that_somebody_holds_blocks_its_own_orders_alone",
        ),
    ),
    Mutant(
        promise="A product row that another",
        name="an order that misses a row is not rejected",
        file=DECIDE,
        text="verdict := 'blocked';",
        instead="verdict := 'rejected';",
        tests=(
            "tests/test_books.py::test_calls_over_the_same_skus_in_any_order_do_not_block_each_other",
            "tests/test_books.py::test_a_row_that_somebody_holds_blocks_its_own_orders_alone",
        ),
    ),
    Mutant(
        promise="A product row that another",
        name="a loaded catalogue is committed in slices",
        file="shop/catalogue.py",
        text="for at in range(0, len(listed), BATCH):\n        batch = listed[at : at + BATCH]\n",
        instead="for at in [0]:\n        batch = listed\n",
        tests=("tests/test_catalogue.py::test_a_load_holds_no_row_of_a_slice_that_was_written",),
    ),
    Mutant(
        promise="Locks exclude",
        name="an order that can't be brought to its end keeps no lock",
        file="shop/fulfilment.py",
        text="_release(batch, client)\n            raise",
        instead="raise",
        tests=("tests/test_fulfilment.py::test_a_store_that_is_away_costs_an_order_no_attempt",),
    ),
    Mutant(
        promise="Nothing relies on locks",
        name="units are counted, in every order of calls",
        file=DECIDE,
        text="SET confirmed = p.confirmed + s.total, version = p.version + 1",
        instead="SET version = p.version + 1",
        tests=(
            "tests/test_interleavings.py::test_in_every_order_of_calls_it_ends_well_and_does_not_need_the_locks",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="Any order of events",
        name="a cancellation puts nothing more on sale",
        file="shop/sql/cancel.sql",
        text="returned = product.returned + line.quantity,",
        instead="returned = product.returned + line.quantity, on_sale = product.on_sale + 1,",
        tests=(
            "tests/test_state_machine.py::test_whatever_happens_in_whatever_order_every_unit_is_accounted_for",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="An order that kills its workers",
        name="a store that is unavailable costs no attempt",
        file="shop/fulfilment.py",
        text="_settle({}, {}, batch.locks, client, waiting=_forgiven(batch.tried))",
        instead="_settle({}, {}, batch.locks, client)",
        tests=("tests/test_fulfilment.py::test_a_store_that_is_away_costs_an_order_no_attempt",),
    ),
    Mutant(
        name="an ended order is kept as long as the setting says",
        file="shop/fulfilment.py",
        text="[settings.ENDED_ORDERS_KEPT_S, len(recorded)",
        instead="[86_400, len(recorded)",
        tests=(
            "tests/test_fulfilment.py::test_an_ended_order_stays_in_redis_for_as_long_as_the_setting_says",
        ),
    ),
    Mutant(
        name="the ledger only grows",
        file="shop/migrations/0002_append_only_ledger.py",
        text="BEFORE UPDATE OR DELETE OR TRUNCATE ON shop_stockmovement",
        instead="BEFORE DELETE ON shop_stockmovement",
        tests=("tests/test_books.py::test_nobody_edits_the_ledger",),
    ),
    Mutant(
        name="a request moves stock once",
        file=MIGRATION,
        text='("request", models.UUIDField(primary_key=True, serialize=False)),',
        instead='("pk", models.CompositePrimaryKey("request", "movement_id")), ("request", models.UUIDField()),',
        tests=("tests/test_products_api.py::test_fifty_copies_of_one_movement_count_once",),
    ),
    Mutant(
        promise="Keys survive a rotation",
        name="copies of a movement meet under the ids of both secrets",
        file="shop/movements.py",
        text='if rows("movement", requests=uuid_array(ids_before)) else move()',
        instead="if False else move()",
        tests=("tests/test_movements.py::test_copies_of_a_movement_under_two_ids_take_turns_and_count_once",),
    ),
    Mutant(
        promise="A PostgreSQL that went back",
        name="an order that is to be booked again waits for a row that somebody holds",
        file=DECIDE,
        text="ELSIF intents[at] = 'book' AND verdict <> 'blocked' THEN",
        instead="ELSIF intents[at] = 'book' THEN",
        tests=(
            "tests/test_continuity.py::test_an_order_whose_product_row_somebody_holds_is_booked_when_that_is_free",
        ),
    ),
    Mutant(
        promise="A PostgreSQL that went back",
        name="a PostgreSQL that is no continuation decides nothing",
        file=DECIDE,
        text="IF NOT shop_continues(followed) THEN",
        instead="IF false THEN",
        tests=(
            "tests/test_continuity.py::test_one_that_went_back_decides_nothing_until_it_is_what_clients_were_told",
        ),
    ),
    Mutant(
        promise="A PostgreSQL that went back",
        name="another timeline is no continuation",
        file=MIGRATION,
        text="left(pg_walfile_name(pg_current_wal_lsn()), 8)",
        instead="'00000001'",
        tests=(
            "tests/test_continuity.py::test_another_timeline_is_no_continuation_however_far_it_has_counted",
        ),
        is_slow=True,
    ),
)
