"""Guards of the sweeper, of the comparison of both stores and of recovery."""

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final = (
    Mutant(
        promise="An order that kills its workers",
        name="an order that was begun goes alone",
        file="shop/sweeper.py",
        text="alone=self.attempts > 0",
        instead="alone=False",
        tests=(
            "tests/test_sweeper.py::test_an_order_that_was_begun_and_has_not_ended_is_enqueued_to_go_alone",
        ),
    ),
    Mutant(
        name="a lock that lives for longer than ours is reported",
        file="shop/reconciliation.py",
        text="if left_ms == -1 or left_ms > keys.LOCK_TTL_MS:",
        instead="if left_ms == -1:",
        tests=("tests/test_reconciliation.py::test_a_lock_that_lives_for_longer_than_ours_is_told",),
    ),
    Mutant(
        name="a lock that never expires is reported",
        file="shop/reconciliation.py",
        text="if left_ms == -1 or left_ms > keys.LOCK_TTL_MS:",
        instead="if left_ms > keys.LOCK_TTL_MS:",
        tests=(
            "tests/test_reconciliation.py::test_a_lock_that_never_expires_and_an_order_that_never_ends_are_told",
        ),
    ),
    Mutant(
        name="units of an order in flight are no difference",
        file="shop/reconciliation.py",
        text="and (sku not in in_flight or",
        instead="and (True or",
        tests=("tests/test_reconciliation.py::test_units_of_an_order_whose_worker_died_are_no_difference",),
    ),
    Mutant(
        promise="A PostgreSQL that went back",
        name="what Redis remembers is booked again",
        file="shop/recovery.py",
        text="if each.status is not Status.QUEUED:\n                yield each",
        instead="if False:\n                yield each",
        tests=(
            "tests/test_backup.py::test_what_redis_remembers_is_in_the_books_again_when_postgresql_comes_from_a_backup",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="Redis shows the order",
        name="a recovery tells Redis what PostgreSQL knows better",
        file="shop/recovery.py",
        text="(Status.CONFIRMED, Status.CANCELLED):\n            fulfilment.settle_again(each.order.id, client=client)",
        instead="(Status.CONFIRMED, Status.CANCELLED):\n            pass",
        tests=("tests/test_backup.py::test_redis_follows_a_postgresql_that_knows_more",),
        is_slow=True,
    ),
    Mutant(
        promise="Every 202 ends",
        name="what has lost its message is enqueued again",
        file="shop/sweeper.py",
        text="return _requeue(client, lost, now_ms, next_look_ms)",
        instead="return len(lost)",
        tests=(
            "tests/test_sweeper.py::test_an_overdue_order_without_a_message_is_enqueued_once",
            "tests/test_survival.py::test_an_order_whose_message_was_lost_is_enqueued_again_by_the_sweeper",
        ),
        is_slow=True,
    ),
    Mutant(
        promise="Every 202 ends",
        name="one sweep enqueues all that is lost",
        file="shop/sweeper.py",
        text="if len(due) < SWEEP_BATCH or time.monotonic() > until:",
        instead="if True:",
        tests=("tests/test_sweeper.py::test_however_many_messages_are_lost_one_sweep_enqueues_all_of_them",),
    ),
    Mutant(
        promise="Every 202 ends",
        name="an order in hand is not enqueued again",
        file="shop/sweeper.py",
        text="is_elsewhere = elsewhere[0] or (",
        instead="is_elsewhere = (",
        tests=("tests/test_sweeper.py::test_an_order_that_a_worker_has_in_hand_is_not_enqueued_again",),
    ),
    Mutant(
        promise="Every 202 ends",
        name="garbage at the head of the queue is looked past",
        file="shop/sweeper.py",
        text="HEAD_MESSAGES = 20",
        instead="HEAD_MESSAGES = 1",
        tests=("tests/test_sweeper.py::test_orders_that_wait_behind_garbage_are_not_enqueued_again",),
    ),
    Mutant(
        promise="Every 202 ends",
        name="a part of the sweep that fails stops no other",
        file="shop/sweeper.py",
        text="except (BrokenKey, RowHeld) as failure:",
        instead="except RowHeld as failure:",
        tests=(
            "tests/test_sweeper.py::test_a_part_of_the_sweep_that_fails_keeps_no_other_from_being_done_and_is_told",
        ),
    ),
    Mutant(
        promise="Every 202 ends",
        name="a cancellation whose message was lost is carried out",
        file="shop/sweeper.py",
        text="status = fulfilment.cancel(order_id, client=client)",
        instead="status = Status.QUEUED",
        tests=("tests/test_sweeper.py::test_a_cancellation_whose_message_was_lost_is_carried_out",),
    ),
    Mutant(
        promise="A counter in Redis follows",
        name="the sweep publishes what changed a moment ago",
        file="shop/sweeper.py",
        text="stock.refresh(client, changed)",
        instead="pass",
        tests=("tests/test_sweeper.py::test_stock_whose_process_died_before_redis_was_told_is_published",),
    ),
    Mutant(
        promise="A pause holds",
        name="the sweeper enqueues nothing during a pause",
        file="shop/sweeper.py",
        text="if pauses.is_paused(client, Part.FULFILMENT):",
        instead="if False:",
        tests=("tests/test_pauses.py::test_the_sweeper_enqueues_nothing_while_fulfilment_is_paused",),
    ),
    Mutant(
        promise="A stock movement that was answered",
        name="what a PostgreSQL that went back has lost is named",
        file="shop/recovery.py",
        text='log.warning("lost with the old PostgreSQL, and entered again", what=str(asked))',
        instead="pass",
        tests=(
            "tests/test_continuity.py::test_a_delivery_that_postgresql_lost_is_named_and_entered_again_before_the_orders_that_live_on_it",
        ),
    ),
)
