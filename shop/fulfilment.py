"""Fulfilling orders: reserve in Redis, decide in PostgreSQL, settle in Redis. One order or many, the same way.

Where a worker dies, nothing has to be undone. Units in Redis are provisional. Before the decision nothing has happened to
the order; after it, the order's next worker meets the row and publishes what it says.
"""

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
from shop.books import Again, Blocked, Decisions, Intent, Question, Recorded, Refused, Stock
from shop.domain import Order, Reason, ReasonCode, Status
from shop.stores import BrokenKey, RowHeld, StoreUnavailable, TextRedis, store_faults
from shop.tracing import tracing
from workers.fail_points import reach

log = structlog.get_logger()
_json = msgspec.json.Encoder()


#: What `reserve.lua` says of an order whose attempt it has counted.
_ATTEMPTS = ("reserved", "short")
_NONE: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Busy:
    """The order is still queued: another order held the lock of `sku` (`is_locked`), or another transaction its row."""

    sku: str
    is_locked: bool = True


class LastAttempt(Exception):
    """The order was begun again and again. It has one attempt left, and makes it alone; or has made it just now."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """The order is still queued, and its neighbours went on.

    Its own key in Redis holds something else, it is tried for the last time, PostgreSQL can't store it, or it is to be
    cancelled and another transaction holds a row of it.
    """

    by: BrokenKey | LastAttempt | Refused | RowHeld


Outcome = Status | Busy | Held


#: How often a call reserves again at once because PostgreSQL has units that Redis did not know of.
ROUNDS_AT_ONCE = 3


class Paused(Exception):
    """Fulfilment is paused (`shop.pauses`): the orders stay as they are. Give them again when it goes on."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How long locks live (0: none are taken), and how often an order may be tried.

    `is_alone`: whether an order that kills this process does it to no other one. Where it does, in a batch, no order makes
    its last attempt of several: none is given up for what another one did. `attempt_ms`: how long its last attempt may take,
    after which an order is given up (0: it is not waited for).
    """

    lock_ttl_ms: int = keys.LOCK_TTL_MS
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
    waiting = list({order.id: order for order in orders}.values())
    figures.tally.add_all(figures.BATCH_ORDERS.counted([len(waiting)]))
    for _ in range(ROUNDS_AT_ONCE):
        batch = _Batch()
        try:
            with tracing.batch(waiting, untold=Paused):
                with tracing.step("reserve"):
                    _reserve(waiting, batch, client, rules)
                ended = _conclude(batch, client) | batch.ended
        except forgiven:
            # That is no fault of the orders: it costs them no attempt, and nobody waits for their locks.
            _release(batch, client)
            raise
        _count(batch, ended)
        outcomes |= ended | batch.waiting()
        waiting = [order for order in waiting if order.id in batch.busy]
        if not batch.is_worth_another_round:
            break
    return {order.id: outcomes[order.id] for order in orders}


@dataclass(kw_only=True)
class _Batch:
    """One round: what is asked of PostgreSQL, what has ended, which orders must wait for which SKU, and the locks taken.

    `blocked`: those that wait for a row of PostgreSQL, not for a lock. `tried`: the orders whose attempt was counted, with
    the id of the call that did. `is_worth_another_round`: Redis called an order short, PostgreSQL did not, and the counters
    say so now. `epoch`, `followed`: of this moment in Redis; what another PostgreSQL decides is not published.
    """

    is_worth_another_round: bool = False
    epoch: str = ""
    followed: str = ""
    questions: list[Question] = field(default_factory=list)
    ended: dict[str, Outcome] = field(default_factory=dict)
    busy: dict[str, str] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    locks: dict[str, str] = field(default_factory=dict)
    tried: dict[str, str] = field(default_factory=dict)

    def waiting(self) -> dict[str, Outcome]:
        """Of the orders that must wait."""
        return {
            order_id: Busy(sku=sku, is_locked=order_id not in self.blocked)
            for order_id, sku in self.busy.items()
        }


def _reserve(orders: list[Order], batch: _Batch, client: TextRedis, rules: Rules) -> None:
    """Reserve for all; those that Redis has forgotten are asked about again, once it has their record."""
    while orders:
        call = secrets.token_hex(8)
        *replies, (batch.epoch, batch.followed) = _run_reserve(orders, call, client, rules)
        # What was reserved is noted before a record is restored: a store that is unavailable then ends the round.
        asked = sorted(zip(orders, replies, strict=True), key=lambda pair: pair[1] == ["unrecorded"])
        batch.tried |= {order.id: call for order, reply in asked if reply[0] in _ATTEMPTS}
        orders = [order for order, reply in asked if _must_ask_again(order, reply, batch, client, rules)]


def _must_ask_again(order: Order, reply: list[Any], batch: _Batch, client: TextRedis, rules: Rules) -> bool:
    """Note in the batch what the script said of an order, or restore the record that it lacked."""
    match reply:
        case ["reserved", *locked]:
            batch.locks |= dict.fromkeys(locked, order.id)
            batch.questions.append(Question(order=order, intent=Intent.TAKE))
        case ["short"]:
            batch.questions.append(Question(order=order, intent=Intent.SHORT))
        case ["paused"]:
            raise Paused("fulfilment is paused")
        case ["busy", sku]:
            batch.busy[order.id] = sku
        case ["ended" | "broken" | "held" as word, *status]:
            batch.ended[order.id] = Status(status[0]) if status else _held(order.id, word)
        case ["cancelled"]:
            batch.questions.append(Question(order=order, intent=Intent.CANCELLED))
        case ["exhausted"]:
            batch.questions.append(_given_up(order, rules))
            # The worker it killed last may have left its locks.
            batch.locks |= {sku: order.id for sku in order.skus if sku not in batch.locks}
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


def _run_reserve(orders: list[Order], call: str, client: TextRedis, rules: Rules) -> list[list[Any]]:
    args: list[Any] = [
        call,
        rules.lock_ttl_ms,
        rules.max_attempts,
        rules.max_attempts if rules.is_alone else max(1, rules.max_attempts - 1),
        rules.attempt_ms,
        int(time.time() * 1000) + rules.sweep_after_ms,
    ]
    for order in orders:
        args += [order.id, len(order.lines)]
        for line in order.lines:
            args += [line.sku, line.quantity]
    reach("worker.before_reserve")
    with store_faults():
        replies: list[list[Any]] = scripts.run(client, "reserve", [keys.OPEN_ORDERS], args)
    reach("worker.after_reserve")
    return replies


def _given_up(order: Order, rules: Rules) -> Question:
    detail = f"given up after {rules.max_attempts} attempts"
    return Question(
        order=order, intent=Intent.FAILED, reason=Reason(ReasonCode.TOO_MANY_ATTEMPTS, detail=detail)
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
    """Decide the batch's orders and publish what became of them. Orders that must wait are noted as busy."""
    with tracing.step("decide"):
        decided = _decide(batch.questions, batch.followed)
    recorded: dict[str, Recorded] = {}
    for question in batch.questions:
        match decided.outcomes[question.order.id]:
            case Recorded() as end:
                recorded[question.order.id] = end
            case Blocked(sku):
                batch.busy[question.order.id] = sku
                batch.blocked.add(question.order.id)
            case Again():
                batch.busy[question.order.id] = question.order.skus[0]
                batch.is_worth_another_round = True
            case Refused() as refusal:
                batch.ended[question.order.id] = Held(by=refusal)
    # What another transaction holds, or Redis did not know, is no fault of the order.
    waiting = _forgiven({order_id: batch.tried[order_id] for order_id in batch.busy.keys() & batch.tried})
    reach("worker.before_settle")
    with tracing.step("settle"):
        outcomes = _settle(recorded, decided.stock, batch.locks, client, waiting=waiting, epoch=batch.epoch)
    reach("worker.after_settle")
    tracing.ended(_ends(batch.questions, recorded, outcomes))
    return outcomes


def _ends(
    questions: list[Question], recorded: Mapping[str, Recorded], outcomes: Mapping[str, Outcome]
) -> Iterator[tuple[Order, Status, Reason | None]]:
    """Orders that have ended, each with its status and the reason for it."""
    for question in questions:
        outcome = outcomes.get(question.order.id)
        if isinstance(outcome, Status) and outcome is not Status.QUEUED:
            end = recorded[question.order.id]
            yield question.order, outcome, end.reason if end.status is outcome else None


def _decide(questions: list[Question], followed: str) -> Decisions:
    """Decide orders together. Where PostgreSQL can't store one of them it takes none: halve until it stands alone."""
    try:
        return books.decide(questions, followed=followed)
    except Refused as refusal:
        if len(questions) == 1:
            log.error("PostgreSQL can't store an order", order=questions[0].order.id, refusal=str(refusal))
            return Decisions(outcomes={questions[0].order.id: refusal})
    half = len(questions) // 2
    first, second = _decide(questions[:half], followed), _decide(questions[half:], followed)
    return Decisions(outcomes=first.outcomes | second.outcomes, stock=first.stock | second.stock)


def _settle(
    recorded: Mapping[str, Recorded],
    found: Mapping[str, Stock | None],
    locks: Mapping[str, str],
    client: TextRedis,
    *,
    waiting: Mapping[str, str] = _NONE,
    epoch: str = "",
) -> dict[str, Outcome]:
    """Publish ends and stock and release locks; then carry out the cancellations that showed in doing so.

    `locks`: by SKU, the order that took its lock. `waiting`: orders of which an attempt is not to be counted, with the id of
    the call that counted it. `epoch`: in which they were decided. Raises `StoreUnavailable`, with nothing published, where
    PostgreSQL went back since.
    """
    if not (recorded or found or locks or waiting):
        return {}
    args: list[Any] = [settings.ENDED_ORDERS_KEPT_S, len(recorded), epoch]
    for order_id, end in recorded.items():
        reason = _json.encode(end.reason) if end.reason else ""
        args += [order_id, end.status.value, end.since_ms, reason, end.fingerprint]
    args += [*stock.as_arguments(found, locks), *(part for each in waiting.items() for part in each)]
    with store_faults():
        replies = scripts.run(client, "settle", list(stock.SETTLE_KEYS), args)
    if replies == ["superseded"]:
        raise StoreUnavailable("PostgreSQL went back after it had decided")
    if len(replies) > len(recorded):
        stock.refresh(client, replies.pop()[1:])
    outcomes: dict[str, Outcome] = {}
    ends: list[str] = []
    for (order_id, end), reply in zip(recorded.items(), replies, strict=True):
        match reply:
            case ["settled"]:
                outcomes[order_id] = end.status
                ends.append(f"{end.status}:{end.reason.code if end.reason else ''}")
            case ["kept", status]:
                outcomes[order_id] = Status(status)
            case ["broken" as word]:
                outcomes[order_id] = _held(order_id, word)
            case ["cancel_requested"]:
                try:
                    outcomes[order_id] = cancel(order_id, client=client)
                except RowHeld as held:
                    outcomes[order_id] = Held(by=held)
            case _:
                raise AssertionError(f"settle.lua answered {reply}")
    figures.tally.add_all({figures.ENDED + end: times for end, times in Counter(ends).items()})
    return outcomes


def _count(batch: _Batch, outcomes: Mapping[str, Outcome]) -> None:
    """Add a round to the figures: how long its orders took, which SKUs they wanted and got, and whose locks they met."""
    if batch.busy:
        figures.tally.add(figures.LOCK_WAITS, len(batch.busy))
        figures.tally.rank(figures.BUSY, Counter(batch.busy.values()))
    if not batch.questions:
        return
    now_ms = int(time.time() * 1000)
    asked: dict[str, int] = {}
    sold: dict[str, int] = {}
    for question in batch.questions:
        is_sold = outcomes.get(question.order.id) is Status.CONFIRMED
        for line in question.order.lines:
            asked[line.sku] = asked.get(line.sku, 0) + line.quantity
            if is_sold:
                sold[line.sku] = sold.get(line.sku, 0) + line.quantity
    figures.tally.rank(figures.ASKED, asked)
    figures.tally.rank(figures.SOLD, sold)
    # The clocks of a web process and a worker differ: nothing ends before it began.
    waits_ms = (max(0, now_ms - each.order.accepted_at_ms) for each in batch.questions)
    figures.tally.add_all(figures.ORDER_MS.counted(waits_ms) | {figures.UNITS_SOLD: sum(sold.values())})


def _release(batch: _Batch, client: TextRedis) -> None:
    try:
        _settle({}, {}, batch.locks, client, waiting=_forgiven(batch.tried))
    except StoreUnavailable:
        log.warning("could not release locks; they expire by themselves", orders=batch.tried)


def _forgiven(tried: Mapping[str, str]) -> Mapping[str, str]:
    """The orders whose attempt is not counted: what stopped it was no fault of theirs."""
    return tried


def cancel(order_id: str, *, client: TextRedis) -> Status:
    """Cancel a confirmed order: in PostgreSQL, then in Redis. Safe to repeat; units return once.

    Returns the order's status afterwards: `queued` where it has not ended, and an end other than `confirmed` where it had
    that one. Raises `StoreUnavailable`, and `RowHeld`.
    """
    epoch = stock.followed(client).epoch
    reach("cancel.before_books")
    books.cancel(order_id)
    reach("cancel.after_books")
    status = settle_again(order_id, client=client, epoch=epoch)
    reach("cancel.after_settle")
    return status or Status.QUEUED


def settle_again(order_id: str, *, client: TextRedis, epoch: str = "") -> Status | None:
    """Make Redis say what PostgreSQL has of an order and of its SKUs. None where there is no row yet.

    `epoch`: since when it must not have gone back ('' = now). Raises `StoreUnavailable`.
    """
    epoch = epoch or stock.followed(client).epoch
    found = books.recorded([order_id])
    if not found:
        return None
    stock_of_skus = books.stock_of(books.skus_of(order_id))
    outcome = _settle(found, stock_of_skus, {}, client, epoch=epoch)[order_id]
    if isinstance(outcome, Held):
        raise outcome.by
    return outcome if isinstance(outcome, Status) else None
