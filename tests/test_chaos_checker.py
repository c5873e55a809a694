"""The checker finds what it is there to find: each fault is planted in a history or in the stores that has no other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace as changed

from shop import keys, scripts
from tests.builders import accepted, an_order, wait_until
from tests.chaos import checker, history, losses
from tests.chaos.case import Case
from tests.chaos.evidence import Evidence, OrderRow, Product
from tests.chaos.history import FAIL, OK, UNKNOWN, History, Operation
from tests.chaos.locks import LockWatch, Trace
from tests.chaos.losses import Loss
from workers.embedded import RedisServer

FIRST, SECOND = "order-1", "order-2"


def placed(
    key: str = "k1", order_id: str = FIRST, units: int = 3, at: float = 1.0, outcome: str = OK
) -> Operation:
    """An order that was asked for."""
    is_known = outcome == OK
    return Operation(
        process=0,
        op="order",
        start=at,
        end=at + 0.1,
        outcome=outcome,
        key=key,
        lines=(("X", units),),
        id=order_id if is_known else "",
        state="queued" if is_known else "",
    )


def polled(state: str, at: float, order_id: str = FIRST, process: int = 0) -> Operation:
    """A look at an order."""
    return Operation(process=process, op="poll", start=at, end=at + 0.1, outcome=OK, id=order_id, state=state)


def moved(key: str, delta: int, outcome: str = OK) -> Operation:
    """A stock movement that was asked for."""
    return Operation(
        process=0, op="move", start=1.5, end=1.6, outcome=outcome, key=key, lines=(("X", delta),)
    )


def cancelled(order_id: str = SECOND) -> Operation:
    """A cancellation that was accepted."""
    return Operation(process=0, op="cancel", start=4.0, end=4.1, outcome=OK, id=order_id, state="confirmed")


def row(
    status: str = "confirmed", key: str = "k1", units: int = 3, sold: int = 3, returned: int = 0
) -> OrderRow:
    """An order in the books."""
    return OrderRow(
        status=status,
        reference=key,
        lines=[("X", units)],
        committed_at=1.5,
        sold=sold,
        returned=returned,
    )


#: Two orders of 3 units, the second one cancelled; 10 units at first, 5 more delivered, an unknown movement that was made.
OPERATIONS = (
    placed(),
    placed(),
    placed("k2", SECOND, at=2.0),
    moved("m1", 5),
    moved("m2", -1, UNKNOWN),
    moved("m3", -100, FAIL),
    placed("k3", units=1, outcome=UNKNOWN),
    polled("queued", 1.2),
    polled("confirmed", 2.0),
    polled("confirmed", 3.0, process=1),
    cancelled(),
    polled("cancelled", 5.0, SECOND),
)
EVIDENCE = Evidence(
    orders={FIRST: row(), SECOND: row("cancelled", "k2", returned=3)},
    products={"X": Product(opening=10, on_sale=14, confirmed=3, free="11")},
    movements=[("m1", "X", 5), ("m2", "X", -1)],
    told={FIRST: "confirmed", SECOND: "cancelled"},
    in_redis={FIRST: "confirmed"},
)


def with_orders(**orders: OrderRow | None) -> Evidence:
    """The evidence with other orders; None: that one is missing."""
    known = {**EVIDENCE.orders, **{name.replace("_", "-"): order for name, order in orders.items()}}
    return replace(EVIDENCE, orders={name: order for name, order in known.items() if order})


def with_product(**counters: int | str | None) -> Evidence:
    """The evidence with other counters."""
    return replace(EVIDENCE, products={"X": replace(EVIDENCE.products["X"], **counters)})


def case(
    *more: Operation,
    evidence: Evidence = EVIDENCE,
    never_short: tuple[str, ...] = (),
    losses: tuple[Loss, ...] = (),
    blind: tuple[tuple[float, float], ...] = (),
) -> Case:
    """The history with more operations."""
    return Case([*OPERATIONS, *more], evidence, never_short=never_short, losses=losses, blind=blind)


#: A third order, accepted at 6 s and asked to be cancelled, and then Redis forgets it, from 7 s to 7.1 s.
THIRD = "order-3"
ACCEPTED, WISHED = placed("k4", THIRD, at=6.0), changed(cancelled(THIRD), start=6.2, end=6.3, state="queued")
FORGOTTEN = Loss(began=7.0, ended=7.1, orders=frozenset({THIRD}), wishes=frozenset({THIRD}))
ROLLED_BACK = Loss(began=7.0, ended=7.1, orders=frozenset(), wishes=frozenset({SECOND}), is_rollback=True)


def test_a_history_in_which_every_promise_was_kept_passes() -> None:
    assert checker.check(case()) == []


PLANTED: list[tuple[str, Callable[[Case], checker.Found], Case]] = [
    (
        "an accepted order is not in the books",
        checker.every_accepted_order_has_one_end,
        case(evidence=with_orders(order_1=None)),
    ),
    (
        "an accepted order is not known over HTTP",
        checker.every_accepted_order_has_one_end,
        case(evidence=replace(EVIDENCE, told={SECOND: "cancelled"})),
    ),
    (
        "an order is queued for ever",
        checker.every_accepted_order_has_one_end,
        case(evidence=replace(EVIDENCE, told={FIRST: "queued", SECOND: "cancelled"})),
    ),
    (
        "PostgreSQL and HTTP say different things",
        checker.every_accepted_order_has_one_end,
        case(evidence=with_orders(order_1=row("rejected", sold=0))),
    ),
    (
        "Redis says something else",
        checker.every_accepted_order_has_one_end,
        case(evidence=replace(EVIDENCE, in_redis={FIRST: "rejected"})),
    ),
    (
        "one key was answered with two ids",
        checker.one_key_is_one_order,
        case(placed(order_id="order-3")),
    ),
    (
        "one key has two orders in the books",
        checker.one_key_is_one_order,
        case(evidence=with_orders(order_3=row())),
    ),
    (
        "two different orders were accepted under one key",
        checker.one_key_is_one_order,
        case(placed(units=4)),
    ),
    (
        "an order has other units than were ordered",
        checker.orders_say_what_was_ordered,
        case(evidence=with_orders(order_1=row(units=4))),
    ),
    (
        "an order is in the books that nobody placed",
        checker.orders_say_what_was_ordered,
        case(evidence=with_orders(order_3=row(key="k9"))),
    ),
    (
        "an order is in the books that was refused",
        checker.orders_say_what_was_ordered,
        case(placed("k4", outcome=FAIL), evidence=with_orders(order_3=row(key="k4"))),
    ),
    (
        "an acknowledged movement is not in the books",
        checker.movements_happen_once,
        case(moved("m4", 2)),
    ),
    (
        "a movement is in the books twice",
        checker.movements_happen_once,
        case(evidence=replace(EVIDENCE, movements=[*EVIDENCE.movements, ("m2", "X", -1)])),
    ),
    (
        "a refused movement is in the books",
        checker.movements_happen_once,
        case(evidence=replace(EVIDENCE, movements=[*EVIDENCE.movements, ("m3", "X", -100)])),
    ),
    (
        "a movement is in the books that nobody asked for",
        checker.movements_happen_once,
        case(evidence=replace(EVIDENCE, movements=[*EVIDENCE.movements, ("m9", "X", 1)])),
    ),
    ("Redis has a unit too few", checker.units_are_conserved, case(evidence=with_product(free="10"))),
    ("Redis has a unit too many", checker.units_are_conserved, case(evidence=with_product(free="12"))),
    ("Redis has no counter", checker.units_are_conserved, case(evidence=with_product(free=None))),
    ("Redis has no number", checker.units_are_conserved, case(evidence=with_product(free="many"))),
    (
        "PostgreSQL counts a unit too many as confirmed",
        checker.units_are_conserved,
        case(evidence=with_product(confirmed=4)),
    ),
    (
        "PostgreSQL has lost a movement's units",
        checker.units_are_conserved,
        case(evidence=with_product(on_sale=13)),
    ),
    ("a counter is below zero", checker.nothing_is_oversold, case(evidence=with_product(free="-1"))),
    (
        "more is confirmed than is on sale",
        checker.nothing_is_oversold,
        case(evidence=with_product(confirmed=15)),
    ),
    (
        "an order was rejected that wanted what there was",
        checker.nobody_is_refused_what_there_is,
        case(evidence=with_orders(order_1=row("rejected", sold=0)), never_short=("X",)),
    ),
    (
        "an order was given up",
        checker.no_order_is_given_up,
        case(evidence=with_orders(order_1=row("failed", sold=0))),
    ),
    (
        "a state went back for the client who saw it",
        checker.states_move_forward,
        case(polled("queued", 4.0)),
    ),
    (
        "a state went back for another client",
        checker.states_move_forward,
        case(polled("queued", 4.0, process=1)),
    ),
    (
        "a final state became another one",
        checker.states_move_forward,
        case(polled("rejected", 4.0)),
    ),
    (
        "a final state was another one at rest",
        checker.states_move_forward,
        case(evidence=replace(EVIDENCE, told={FIRST: "rejected", SECOND: "cancelled"})),
    ),
    (
        "an order was shown as confirmed before its commit",
        checker.nothing_is_shown_before_its_commit,
        case(polled("confirmed", 1.3)),
    ),
    (
        "a cancelled order returned its units twice",
        checker.cancelled_orders_return_their_units_once,
        case(evidence=with_orders(order_2=row("cancelled", "k2", returned=6))),
    ),
    (
        "a cancelled order returned nothing",
        checker.cancelled_orders_return_their_units_once,
        case(evidence=with_orders(order_2=row("cancelled", "k2", returned=0))),
    ),
    (
        "a confirmed order is in the ledger twice",
        checker.cancelled_orders_return_their_units_once,
        case(evidence=with_orders(order_1=row(sold=6))),
    ),
    (
        "an accepted cancellation was forgotten",
        checker.cancelled_orders_return_their_units_once,
        case(cancelled(FIRST)),
    ),
    (
        "a lock is left behind",
        checker.nothing_is_left_behind,
        case(evidence=replace(EVIDENCE, left=["lock:produto:X"])),
    ),
    (
        "something broke",
        checker.nothing_breaks,
        case(changed(placed("k5", outcome=UNKNOWN), status=500)),
    ),
    (
        "a worker gave up",
        checker.no_process_gives_up,
        case(evidence=replace(EVIDENCE, gave_up=["worker-1 ended with exit status 1"])),
    ),
    (
        "nothing was confirmed",
        checker.something_succeeded,
        case(evidence=with_orders(order_1=None)),
    ),
    (
        "nobody saw a confirmed order",
        checker.something_succeeded,
        Case([one for one in OPERATIONS if one.state != "confirmed"], EVIDENCE),
    ),
]


@pytest.mark.parametrize(
    ("find", "planted"), [planted[1:] for planted in PLANTED], ids=[planted[0] for planted in PLANTED]
)
def test_what_is_planted_is_found(find: Callable[[Case], checker.Found], planted: Case) -> None:
    assert list(find(planted))


@pytest.mark.parametrize("find", checker.CHECKS)
def test_each_check_has_a_fault_that_it_must_find(find: Callable[[Case], checker.Found]) -> None:
    assert any(planted[1] is find for planted in PLANTED)


@pytest.mark.parametrize(
    ("more", "losses", "wrong"),
    [
        pytest.param((ACCEPTED,), (FORGOTTEN,), 0, id="Redis forgot an order that nobody else knew"),
        pytest.param((ACCEPTED, WISHED), (FORGOTTEN,), 0, id="and the wish to cancel it"),
        pytest.param((ACCEPTED,), (), 1, id="nothing destroyed the order"),
        pytest.param(
            (ACCEPTED,), (replace(FORGOTTEN, orders=frozenset()),), 1, id="something else was destroyed"
        ),
        pytest.param(
            (ACCEPTED, placed("k4", THIRD, at=8.0)), (FORGOTTEN,), 1, id="it was accepted again since"
        ),
        pytest.param(
            (ACCEPTED, polled("confirmed", 6.5, THIRD)),
            (FORGOTTEN,),
            1,
            id="its end had been seen, so it was decided",
        ),
        pytest.param(
            (ACCEPTED, WISHED), (replace(FORGOTTEN, wishes=frozenset()),), 1, id="the wish was not destroyed"
        ),
        pytest.param(
            (ACCEPTED, changed(WISHED, start=8.0, end=8.1)),
            (FORGOTTEN,),
            1,
            id="the wish was accepted again since",
        ),
    ],
)
def test_a_fault_may_cost_what_it_destroyed_and_nothing_else(
    more: tuple[Operation, ...], losses: tuple[Loss, ...], wrong: int
) -> None:
    assert len(checker.check(case(*more, losses=losses))) == wrong


@pytest.mark.parametrize(("losses", "wrong"), [((FORGOTTEN,), 0), ((), 1)])
def test_a_key_whose_order_was_lost_may_stand_for_another(losses: tuple[Loss, ...], wrong: int) -> None:
    other = placed("k4", THIRD, units=1, at=8.0)
    evidence = replace(
        with_orders(order_3=row("rejected", "k4", units=1, sold=0)), told={**EVIDENCE.told, THIRD: "rejected"}
    )

    found = checker.check(case(ACCEPTED, other, evidence=evidence, losses=losses))

    assert len(found) == wrong


@pytest.mark.parametrize(
    ("losses", "decided_at", "wrong"),
    [
        pytest.param((FORGOTTEN,), 9.0, 0, id="a worker had it in hand"),
        pytest.param((FORGOTTEN,), 7.5, 1, id="it was decided before"),
        pytest.param((), 9.0, 1, id="Redis had lost nothing"),
    ],
)
def test_only_while_a_worker_has_a_lost_order_in_hand_may_its_key_be_taken_for_another(
    losses: tuple[Loss, ...], decided_at: float, wrong: int
) -> None:
    decided = replace(row("rejected", "k4", sold=0), committed_at=decided_at)
    evidence = replace(with_orders(order_3=decided), told={**EVIDENCE.told, THIRD: "rejected"})
    other, again = placed("k4", THIRD, units=1, at=8.0), placed("k4", THIRD, at=10.0)

    found = checker.check(case(ACCEPTED, other, again, evidence=evidence, losses=losses))

    assert len(found) == wrong


@pytest.mark.parametrize(
    ("losses", "wrong"), [((ROLLED_BACK,), 0), ((), 2), ((replace(ROLLED_BACK, wishes=frozenset()),), 2)]
)
def test_only_a_rollback_may_bring_back_an_order_that_was_cancelled(
    losses: tuple[Loss, ...], wrong: int
) -> None:
    evidence = replace(EVIDENCE, told={FIRST: "confirmed", SECOND: "confirmed"})

    assert len(checker.check(case(evidence=evidence, losses=losses))) == wrong


@pytest.mark.parametrize(
    ("losses", "blind", "wrong"),
    [
        pytest.param((FORGOTTEN,), ((39.5, 40.5),), 0, id="Redis had lost it, PostgreSQL was away"),
        pytest.param((FORGOTTEN,), ((41.0, 41.5),), 1, id="PostgreSQL was there"),
        pytest.param((), ((39.5, 40.5),), 1, id="Redis had lost nothing"),
        pytest.param(
            (replace(FORGOTTEN, touched=frozenset()),), ((39.5, 40.5),), 1, id="Redis had not lost this one"
        ),
        pytest.param(
            (replace(FORGOTTEN, began=0.5, ended=0.6),), ((39.5, 40.5),), 1, id="Redis had lost it before"
        ),
    ],
)
@pytest.mark.parametrize("later", [placed(at=40.0), placed(units=4, at=40.0)], ids=["again", "another order"])
def test_only_where_nobody_could_know_of_an_order_may_its_key_be_taken_for_a_new_one(
    later: Operation, losses: tuple[Loss, ...], blind: tuple[tuple[float, float], ...], wrong: int
) -> None:
    found = {violation.check for violation in checker.check(case(later, losses=losses, blind=blind))}

    assert bool(found) == bool(wrong)


@pytest.mark.parametrize(
    ("status", "decided_after_s", "wrong"),
    [
        pytest.param("rejected", 0.1, False, id="rejected in the same moment"),
        pytest.param("failed", 0.1, False, id="given up in the same moment"),
        pytest.param("rejected", 60.0, True, id="rejected by a decision that could see the request"),
        pytest.param("confirmed", 0.1, True, id="confirmed, which a cancellation follows"),
    ],
)
def test_only_an_order_that_was_refused_in_the_same_moment_may_keep_its_end_against_a_cancellation(
    status: str, decided_after_s: float, wrong: bool
) -> None:
    request = changed(cancelled(THIRD), start=6.2, end=6.3, state="queued")
    decided = replace(
        row(status, "k4", sold=3 if status == "confirmed" else 0), committed_at=6.3 + decided_after_s
    )
    evidence = replace(with_orders(order_3=decided), told={**EVIDENCE.told, THIRD: status})

    found = checker.cancelled_orders_return_their_units_once(case(ACCEPTED, request, evidence=evidence))

    assert bool(list(found)) == wrong


@pytest.mark.parametrize(
    ("at", "blind", "wrong"),
    [
        pytest.param(8.0, ((7.5, 8.5),), 0, id="its worker may have died before it was published"),
        pytest.param(8.0, ((9.0, 9.5),), 2, id="PostgreSQL could be asked"),
        pytest.param(40.0, ((39.5, 40.5),), 2, id="it was published long ago"),
    ],
)
def test_only_an_end_that_was_not_published_yet_may_go_out_of_sight(
    at: float, blind: tuple[tuple[float, float], ...], wrong: int
) -> None:
    assert len(checker.check(case(polled("queued", at), blind=blind))) == wrong


def test_an_error_that_was_asked_for_is_none() -> None:
    broken = changed(placed("k5", outcome=UNKNOWN), status=500)

    assert checker.check(case(broken, evidence=replace(EVIDENCE, errors_asked_for=1))) == []


def test_what_a_piece_of_a_real_file_accepted_is_read_from_it(
    client: "redis.Redis", redis_server: RedisServer
) -> None:
    file = redis_server.folder / "appendonly.aof"
    (before,) = accepted(client, an_order(("A", 1)))
    synced = file.stat().st_size
    (after, cancelling) = accepted(client, an_order(("A", 1)), an_order(("B", 1)))
    names = [keys.order(cancelling.id), keys.CANCELLATIONS, ""]
    scripts.run(client, "request_cancel", names, [cancelling.id, cancelling.client, 1, "", ""])
    scripts.run(
        client,
        "reserve",
        [keys.OPEN_ORDERS],
        ["a call", 0, 3, 3, 5000, 9, before.id, 1, "A", 1],
    )

    loss = losses.of_tail(file.read_bytes()[synced:], 0.0, 1.0)

    assert loss.orders == {after.id, cancelling.id}
    assert loss.wishes == {cancelling.id}


def test_a_movement_that_was_unknown_and_then_refused_may_have_happened() -> None:
    allowed = case(moved("m2", -1, FAIL))

    assert checker.check(allowed) == []


def test_two_looks_at_the_same_time_may_see_different_states() -> None:
    overlapping = changed(polled("queued", 1.95), end=2.5)

    assert checker.check(case(overlapping)) == []


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as written:
        for operation in OPERATIONS:
            written.add(operation)

    assert history.read(tmp_path / "history.jsonl") == list(OPERATIONS)


TAKE = '1700000000.100000 [0 lua] "SET" "lock:produto:X" "a" "PX" "5000"'
SETTLE = '1700000000.200000 [0 127.0.0.1:5] "EVALSHA" "f00" "4" "orders:open" "X" "a"'
RELEASE = '1700000000.200001 [0 lua] "DEL" "lock:produto:X"'


def test_a_trace_of_locks_that_exclude_passes() -> None:
    again = TAKE.replace(".100000", ".300000").replace('"a"', '"b"')

    watch = LockWatch().feed([TAKE, SETTLE, RELEASE, again])

    assert (watch.taken, watch.violations) == (2, [])


def test_a_lock_that_expired_may_be_taken() -> None:
    later = TAKE.replace("1700000000.1", "1700000005.1").replace('"a"', '"b"')

    assert LockWatch().feed([TAKE, later]).violations == []


def test_what_was_done_while_nobody_looked_is_not_guessed() -> None:
    watch = LockWatch().feed([TAKE])
    watch.forget()

    assert watch.feed([TAKE.replace('"a"', '"b"')]).violations == []


@pytest.mark.parametrize(
    "trace",
    [
        pytest.param([TAKE, TAKE.replace('"a"', '"b"')], id="two holders at once"),
        pytest.param([TAKE, SETTLE.replace('"a"', '"b"'), RELEASE], id="released by somebody else"),
        pytest.param([TAKE.replace(' "PX" "5000"', "")], id="a lock that never expires"),
        pytest.param([TAKE.replace("5000", "5001")], id="a lock that lives too long"),
    ],
)
def test_locks_that_do_not_exclude_are_found_in_a_trace(trace: list[str]) -> None:
    assert LockWatch().feed(trace).violations


@pytest.mark.parametrize(("holder", "violations"), [("b", 0), ("c", 1)])
def test_a_real_redis_is_followed(
    client: "redis.Redis", redis_server: RedisServer, holder: str, violations: int
) -> None:
    lock = keys.lock("X")
    with Trace(redis_server) as trace:
        trace.switch(on=True)
        wait_until(lambda: client.set(lock, "b", px=5000) and trace.watch.taken, what="MONITOR to be on")
        before = trace.watch.taken

        client.set(lock, holder, px=5000)

        wait_until(lambda: trace.watch.taken > before, what="the last command to be seen")
    assert len(trace.watch.violations) == violations
