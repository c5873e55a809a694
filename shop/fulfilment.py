"""Fulfilling orders: reserve in Redis, decide in PostgreSQL, settle in Redis. One order or many, the same way.

Who may die where: before the decision, the reservation stays open and the order's next worker goes on with it; after the
decision, the next worker meets the row and settles what it says. No step is undone on a guess.
"""

import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from django.conf import settings

from shop import books, figures, keys, scripts, stock
from shop.books import Decision, Recorded, Refused
from shop.domain import LineShortage, Order, Reason, ReasonCode, Status
from shop.stores import BrokenKey, StoreUnavailable, TextRedis, store_faults
from shop.tracing import tracing
from workers.fail_points import reach

log = structlog.get_logger()
_json = msgspec.json.Encoder()

#: What the script says of orders for which something must be loaded first.
_LACKING = ("not_loaded", "unrecorded")


@dataclass(frozen=True, kw_only=True)
class Busy:
    """The order is still in line: another order held the lock of `sku` for as long as we waited."""

    sku: str


class LastAttempt(Exception):
    """The order was begun again and again. It has one attempt left, and makes it alone; or has made it just now."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """The order is still in line, and its neighbours went on: somebody has put something else under its own key in Redis, or
    it is tried for the last time."""

    by: BrokenKey | LastAttempt


Outcome = Status | Busy | Held


class Paused(Exception):
    """Fulfilment is paused (`shop.pauses`): the orders stay as they are. Give them again when it goes on."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How long locks live (0: none are taken) and orders wait for them, and how often an order may be tried.

    The wait is longer than a lock's life, so that a dead holder's lock never outlasts it, and shorter than the worker's
    task limit. `is_alone`: whether an order that kills this process does it to no other one. Where it does, in a batch, no
    order makes its last attempt of several: none is given up for what another one did. `attempt_ms`: how long its last
    attempt may take, after which an order is given up (0: it is not waited for).
    """

    lock_ttl_ms: int = keys.LOCK_TTL_MS
    lock_wait_s: float = 5.5
    is_alone: bool = True
    max_attempts: int = settings.MAX_ATTEMPTS
    attempt_ms: int = keys.LOCK_TTL_MS
    sweep_after_ms: int = settings.SWEEP_AFTER_MS


def fulfil(
    orders: Sequence[Order],
    *,
    client: TextRedis,
    rules: Rules | None = None,
    forgives: tuple[type[Exception], ...] = (),
) -> dict[str, Outcome]:
    """Bring orders to their end: order id to final status, in the order given, or why it must come again.

    Earlier orders go first. Raises `StoreUnavailable` when a store is away, and `Paused`; the same orders may be given
    again, to anybody. `forgives`: what else may be raised in here that is no fault of the orders.
    """
    rules = rules or Rules()
    forgiven: tuple[type[Exception], ...] = (StoreUnavailable, Paused, *forgives)
    outcomes: dict[str, Outcome] = {}
    waiting = {order.id: order for order in orders}
    figures.tally.add_all(figures.BATCH_ORDERS.counted([len(waiting)]))
    deadline = time.monotonic() + rules.lock_wait_s
    while waiting:
        batch = _Batch()
        try:
            with tracing.batch(list(waiting.values()), untold=Paused):
                with tracing.step("reserve"):
                    _reserve(list(waiting.values()), batch, client, rules)
                outcomes |= batch.ended | _conclude(batch, client)
        except forgiven:
            # That is no fault of the orders: it costs them no attempt, and nobody waits for their locks.
            _release(batch, client)
            raise
        _count(batch, outcomes)
        waiting = {order_id: waiting[order_id] for order_id in batch.busy}
        if waiting and time.monotonic() > deadline:
            outcomes |= {order_id: Busy(sku=sku) for order_id, sku in batch.busy.items()}
            break
        if waiting:
            time.sleep(random.uniform(0.001, 0.005))
    return {order.id: outcomes[order.id] for order in orders}


@dataclass(kw_only=True)
class _Batch:
    """One round: what was decided for which orders, which are busy, what has ended, and the locks taken."""

    decisions: list[Decision] = field(default_factory=list)
    ended: dict[str, Outcome] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)
    locks: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)


def _reserve(orders: list[Order], batch: _Batch, client: TextRedis, rules: Rules) -> None:
    """Reserve for all; those whose stock or record had to be loaded first are asked again."""
    while orders:
        replies = _run_reserve(orders, client, rules)
        # What was reserved is noted before anything is loaded: with a store away, loading ends the round, and all of it
        # has to be taken back.
        asked = sorted(zip(orders, replies, strict=True), key=lambda pair: pair[1][0] in _LACKING)
        orders = [order for order, reply in asked if _must_ask_again(order, reply, batch, client, rules)]


def _must_ask_again(order: Order, reply: list[Any], batch: _Batch, client: TextRedis, rules: Rules) -> bool:
    """Note in the batch what the script said of an order, or do what it lacked."""
    match reply:
        case ["reserved", token, owner, *locked]:
            batch.locks += [part for sku in locked for part in (sku, owner)]
            batch.tried.append(order.id)
            batch.decisions.append(Decision(order=order, status=Status.CONFIRMED, token=token))
        case ["short", *pairs]:
            batch.tried.append(order.id)
            batch.decisions.append(_rejected(order, pairs))
        case ["paused"]:
            raise Paused("fulfilment is paused")
        case ["busy", sku]:
            batch.busy[order.id] = sku
        case ["ended" | "broken" | "held" as word, *status]:
            batch.ended[order.id] = Status(status[0]) if status else _held(order.id, word)
        case ["cancelled"]:
            batch.decisions.append(Decision(order=order, status=Status.CANCELLED))
        case ["exhausted"]:
            batch.decisions.append(_given_up(order, rules))
            # The worker it killed last may have left its locks.
            batch.locks += [part for sku in order.skus for part in (sku, order.id)]
        case ["not_loaded", *skus]:
            absent = stock.load(client, skus)
            if not absent:
                return True
            batch.decisions.append(_unknown(order, absent))
        case ["unrecorded"]:
            # Redis forgot the order: it has ended long ago, or Redis lost data.
            ended = settle_again(order.id, client=client)
            if ended is None:
                _restore(order, client, rules)
                return True
            batch.ended[order.id] = ended
        case _:
            raise AssertionError(f"reserve.lua answered {reply}")
    return False


def _held(order_id: str, word: str) -> Held:
    if word == "held":
        return Held(by=LastAttempt("its last attempt is made alone, or began less than 5 s ago"))
    return Held(by=BrokenKey.of(keys.order(order_id)))


def _run_reserve(orders: list[Order], client: TextRedis, rules: Rules) -> list[list[Any]]:
    now_ms = int(time.time() * 1000)
    in_company = rules.max_attempts if rules.is_alone else max(1, rules.max_attempts - 1)
    args: list[Any] = [
        now_ms,
        rules.lock_ttl_ms,
        rules.max_attempts,
        in_company,
        rules.attempt_ms,
        now_ms + rules.sweep_after_ms,
    ]
    tokens = secrets.token_hex(8)
    for at, order in enumerate(orders):
        args += [order.id, f"{tokens}{at:04x}", len(order.lines)]
        for line in order.lines:
            args += [line.sku, line.quantity]
    reach("worker.before_reserve")
    with store_faults():
        replies: list[list[Any]] = scripts.run(client, "reserve", [keys.RESERVATIONS, keys.OPEN_ORDERS], args)
    reach("worker.after_reserve")
    return replies


def _rejected(order: Order, pairs: Sequence[Any]) -> Decision:
    asked = {line.sku: line.quantity for line in order.lines}
    short = [
        LineShortage(sku, asked[sku], max(0, int(free)))
        for sku, free in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    reason = Reason(ReasonCode.INSUFFICIENT_STOCK, tuple(short))
    return Decision(order=order, status=Status.REJECTED, reason=reason)


def _unknown(order: Order, absent: set[str]) -> Decision:
    lines = tuple(LineShortage(line.sku, line.quantity, 0) for line in order.lines if line.sku in absent)
    return Decision(order=order, status=Status.REJECTED, reason=Reason(ReasonCode.UNKNOWN_SKU, lines))


def _given_up(order: Order, rules: Rules) -> Decision:
    detail = f"given up after {rules.max_attempts} attempts"
    return Decision(
        order=order, status=Status.FAILED, reason=Reason(ReasonCode.TOO_MANY_ATTEMPTS, detail=detail)
    )


def _restore(order: Order, client: TextRedis, rules: Rules) -> None:
    now_ms = int(time.time() * 1000)
    args = [
        order.id,
        order.client,
        order.fingerprint,
        _json.encode(order),
        now_ms,
        now_ms + rules.sweep_after_ms,
    ]
    with store_faults():
        scripts.run(client, "restore", [keys.order(order.id), keys.OPEN_ORDERS], args)
    log.warning("order record restored", order=order.id)


def _conclude(batch: _Batch, client: TextRedis) -> dict[str, Outcome]:
    with tracing.step("decide"):
        recorded = _record(batch.decisions, client)
    skus = {decision.order.id: decision.order.skus for decision in batch.decisions}
    reach("worker.before_settle")
    with tracing.step("settle"):
        outcomes = _settle(recorded, skus, batch.locks, client)
    reach("worker.after_settle")
    tracing.ended(_ends(batch.decisions, recorded, outcomes))
    return outcomes


def _ends(
    decisions: list[Decision], recorded: Mapping[str, Recorded], outcomes: Mapping[str, Outcome]
) -> Iterator[tuple[Order, Status, Reason | None]]:
    """Orders that have ended, each with its status and the reason for it."""
    for decision in decisions:
        booked, outcome = recorded[decision.order.id], outcomes[decision.order.id]
        if isinstance(outcome, Status) and outcome is not Status.QUEUED:
            yield decision.order, outcome, booked.reason if booked.status is outcome else None


def _record(decisions: list[Decision], client: TextRedis) -> dict[str, Recorded]:
    """Write decisions together; where the books refuse them together, one by one, so that each stands for itself."""
    if not decisions:
        return {}
    try:
        return books.record(decisions)
    except Refused as refusal:
        if len(decisions) > 1:
            recorded: dict[str, Recorded] = {}
            for decision in decisions:
                recorded |= _record([decision], client)
            return recorded
        return _record_refused(decisions[0].order, str(refusal), client)


def _record_refused(order: Order, refusal: str, client: TextRedis) -> dict[str, Recorded]:
    """Redis promised units that the books do not have (it lost data, or was edited): the books win."""
    log.error("books refused an order that Redis had reserved", order=order.id, refusal=refusal)
    stock.unload(client, order.skus)
    reason = books.shortages(order)
    if reason is None:
        raise StoreUnavailable("PostgreSQL: refused an order, and would take it a moment later")
    return books.record([Decision(order=order, status=Status.REJECTED, reason=reason)])


def _settle(
    recorded: dict[str, Recorded],
    skus: Mapping[str, Sequence[str]],
    locks: list[str],
    client: TextRedis,
    *,
    accept_lost: bool = False,
) -> dict[str, Outcome]:
    """Publish what the books say and close the reservations; then what only showed in doing so."""
    if not recorded:
        return {}
    args: list[Any] = [keys.DAY_S, len(recorded)]
    for order_id, decided in recorded.items():
        reason = _json.encode(decided.reason) if decided.reason else ""
        args += [
            order_id,
            decided.status.value,
            decided.since_ms,
            decided.token,
            reason,
            decided.fingerprint,
            _json.encode(skus[order_id]) if accept_lost else "",
        ]
    names = [keys.RESERVATIONS, keys.OPEN_ORDERS, keys.CANCELLATIONS, keys.SETTLED_CHANNEL]
    with store_faults():
        replies = scripts.run(client, "settle", names, args + locks)
    outcomes: dict[str, Outcome] = {}
    ends: list[str] = []
    for (order_id, decided), reply in zip(recorded.items(), replies, strict=True):
        match reply:
            case ["settled"]:
                outcomes[order_id] = decided.status
                ends.append(f"{decided.status}:{decided.reason.code if decided.reason else ''}")
            case ["kept", status]:
                outcomes[order_id] = Status(status)
            case ["broken" as word]:
                outcomes[order_id] = _held(order_id, word)
            case ["cancel_requested"]:
                outcomes[order_id] = cancel(order_id, client=client)
            case ["lost"]:
                log.warning("reservation lost, loading its stock afresh", order=order_id)
                # What we believed is as old as what Redis lost: somebody may have cancelled the order since, and it may be
                # another order under its key that the books have.
                counted = {order_id: books.skus_of(order_id)}
                outcomes |= _settle(books.recorded([order_id]), counted, [], client, accept_lost=True)
            case _:
                raise AssertionError(f"settle.lua answered {reply}")
    figures.tally.add_all({figures.ENDED + end: times for end, times in Counter(ends).items()})
    return outcomes


def _count(batch: _Batch, outcomes: Mapping[str, Outcome]) -> None:
    """Add a round to the figures: how long its orders took, which SKUs they wanted and got, and whose locks they met."""
    if batch.busy:
        figures.tally.add(figures.LOCK_WAITS, len(batch.busy))
        figures.tally.rank(figures.BUSY, Counter(batch.busy.values()))
    if not batch.decisions:
        return
    now_ms = int(time.time() * 1000)
    asked: dict[str, int] = {}
    sold: dict[str, int] = {}
    for decision in batch.decisions:
        is_sold = outcomes.get(decision.order.id) is Status.CONFIRMED
        for line in decision.order.lines:
            asked[line.sku] = asked.get(line.sku, 0) + line.quantity
            if is_sold:
                sold[line.sku] = sold.get(line.sku, 0) + line.quantity
    figures.tally.rank(figures.ASKED, asked)
    figures.tally.rank(figures.SOLD, sold)
    # The clocks of a web process and a worker differ: nothing ends before it began.
    waits_ms = (max(0, now_ms - decision.order.accepted_at_ms) for decision in batch.decisions)
    figures.tally.add_all(figures.ORDER_MS.counted(waits_ms) | {figures.UNITS_SOLD: sum(sold.values())})


def _release(batch: _Batch, client: TextRedis) -> None:
    try:
        forgive(batch.tried, client=client)
        with store_faults():
            for sku, owner in zip(batch.locks[::2], batch.locks[1::2], strict=True):
                scripts.run(client, "unlock", [keys.lock(sku)], [owner])
    except StoreUnavailable:
        log.warning("could not release locks; they expire by themselves", orders=batch.tried)


def forgive(order_ids: Sequence[str], *, client: TextRedis) -> None:
    """Take back the attempt just counted for these orders: what stopped it was not theirs. Raises `StoreUnavailable`."""
    with store_faults():
        for order_id in order_ids:
            if client.hget(keys.order(order_id), "status") == Status.QUEUED:
                client.hincrby(keys.order(order_id), "attempts", -1)


def cancel(order_id: str, *, client: TextRedis) -> Status:
    """Cancel a confirmed order: in PostgreSQL, then in Redis. Safe to repeat; units return once.

    Returns the order's status afterwards: `queued` where it has not ended, and an end other than `confirmed` where it had
    that one. Raises `StoreUnavailable`.
    """
    reach("cancel.before_books")
    books.cancel(order_id)
    reach("cancel.after_books")
    status = settle_again(order_id, client=client)
    reach("cancel.after_settle")
    if status is Status.CANCELLED:
        stock.sync_levels(client, books.skus_of(order_id))
    return status or Status.QUEUED


def settle_again(order_id: str, *, client: TextRedis) -> Status | None:
    """Make Redis say what the books say of an order, and close its reservation. None where the books have no row yet.

    Raises `StoreUnavailable`.
    """
    found = books.recorded([order_id])
    if not found:
        return None
    outcome = _settle(found, {order_id: books.skus_of(order_id)}, [], client)[order_id]
    if isinstance(outcome, Held):
        raise outcome.by
    return outcome if isinstance(outcome, Status) else None
