"""Holds what clients were told against what the stores say: everything that is promised, check by check.

Each check takes the history, the evidence or both, and says what is wrong. None of them repairs or forgives.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.case import Case
from tests.chaos.evidence import OrderRow
from tests.chaos.history import ENDED, FAIL, OK, UNKNOWN, Operation

#: How a state may change. What is not named here stays as it is.
_FORWARD: Final = {"queued": ENDED, "confirmed": {"cancelled"}}
#: What may be said in turn of an order whose cancellation Redis has forgotten, and PostgreSQL has not.
_CANCELLED_AGAIN: Final = {"confirmed", "cancelled"}
#: A decision that commits so long after a cancellation was accepted has seen the request: no worker freezes for longer.
DECIDED_WITHIN_S: Final = 20.0
#: The clocks of PostgreSQL and of the clients are one; it is read at slightly different moments.
CLOCK_S: Final = 0.005

#: The status of an answer to what nobody thought of.
BROKEN: Final = 500

LOST, DOUBLED, OVERSOLD, UNDERSOLD, OTHER = "lost", "doubled", "oversold", "undersold", "other"


@dataclass(frozen=True, kw_only=True)
class Violation:
    """Something that must not be. `column`: the kind of harm; `wrong`: by so many orders or units.

    `since`, `until`: Unix times between which it must have come about, 0 where nobody can tell.
    """

    check: str
    what: str
    column: str = OTHER
    wrong: int = 1
    since: float = 0.0
    until: float = 0.0


Found = Iterator[Violation]


def check(case: Case) -> list[Violation]:
    """Everything that is wrong."""
    return [violation for each in CHECKS for violation in each(case)]


def every_accepted_order_has_one_end(case: Case) -> Found:
    """The same one in PostgreSQL, over HTTP, and in Redis where that still knows it."""
    for order_id, answers in case.accepted.items():
        row = case.evidence.orders.get(order_id)
        states = {row.status if row else "missing", case.evidence.told.get(order_id, "missing")}
        states |= {case.evidence.in_redis[order_id]} if order_id in case.evidence.in_redis else set()
        if states == {"missing"} and case.may_be_gone(order_id):
            continue
        if (
            row
            and row.status == "cancelled"
            and states == _CANCELLED_AGAIN
            and case.may_be_rolled_back(order_id)
        ):
            continue
        if len(states) > 1 or not states <= ENDED:
            yield Violation(
                check="every accepted order has one end",
                what=f"order {order_id}: {' / '.join(sorted(states))}",
                column=LOST,
                since=answers[0].start,
            )


def one_key_is_one_order(case: Case) -> Found:
    """In the answers, which agree on an id and on what was ordered, and in the books."""
    name = "one key is one order"
    rows: Counter[str] = Counter(row.reference for row in case.evidence.orders.values())
    for key, asked in case.asked.items():
        placed = [one for one in asked if one.op == "order"]
        ids = {one.id for one in placed if one.outcome == OK}
        since, until = asked[0].start, asked[-1].end
        if len(ids) > 1 or rows[key] > 1:
            more = max(len(ids), rows[key]) - 1
            text = f"key {key}: ids {sorted(ids)}, {rows[key]} orders in the books"
            yield Violation(check=name, what=text, column=DOUBLED, wrong=more, since=since, until=until)
        most = max(len({_units(one.lines) for one in some}) for some in _eras(case, placed))
        if most > 1:
            text = f"key {key}: {most} different orders were accepted"
            yield Violation(check=name, what=text, column=DOUBLED, since=since, until=until)


def _eras(case: Case, placed: Sequence[Operation]) -> Iterable[Sequence[Operation]]:
    """The answers that accepted an order, by how often it was lost before: a lost one leaves its key free for another."""
    eras: dict[int, list[Operation]] = {0: []}
    accepted = [one for one in placed if one.outcome == OK]
    for one in accepted:
        if case.may_be_taken_for_new(one):
            continue
        row = case.evidence.orders.get(one.id)
        if row and _units(one.lines) != _units(row.lines) and case.may_be_another(one):
            continue
        losses = [loss for loss in case.losses if one.id in loss.orders]
        if one.outcome == OK and not any(
            loss.began <= one.end and one.start <= loss.ended for loss in losses
        ):
            eras.setdefault(sum(one.start > loss.ended for loss in losses), []).append(one)
    return eras.values()


def orders_say_what_was_ordered(case: Case) -> Found:
    """Nothing in the books that nobody asked for, no line more or less."""
    name = "orders say what was ordered"
    for order_id, row in case.evidence.orders.items():
        asked = [one for one in case.asked.get(row.reference, ()) if one.op == "order"]
        accepted = [one for one in asked if one.outcome == OK] or [
            one for one in asked if one.outcome != FAIL
        ]
        if not accepted:
            yield Violation(check=name, what=f"order {order_id}: nobody placed it", column=DOUBLED)
        elif _units(row.lines) not in {_units(one.lines) for one in accepted}:
            text = f"order {order_id}: {_units(row.lines)} instead of {_units(accepted[0].lines)}"
            yield Violation(check=name, what=text, since=accepted[0].start)


def movements_happen_once(case: Case) -> Found:
    """Acknowledged ones once, unknown ones at most once, refused ones never."""
    name = "movements happen once"
    written: dict[str, list[tuple[str, int]]] = {}
    for key, sku, delta in case.evidence.movements:
        written.setdefault(key, []).append((sku, delta))
    moves = {key: asked for key, asked in case.asked.items() if asked[0].op == "move"}
    for key, asked in moves.items():
        outcomes = {one.outcome for one in asked}
        found = written.get(key, [])
        least, most = (1, 1) if OK in outcomes else (0, 1 if UNKNOWN in outcomes else 0)
        if not least <= len(found) <= most or any(one != asked[0].lines[0] for one in found):
            text = f"movement {key} of {asked[0].lines[0]}, {sorted(outcomes)}: in the books {found}"
            column = LOST if len(found) < least else DOUBLED
            yield Violation(check=name, what=text, column=column, since=asked[0].start, until=asked[-1].end)
    for key in written.keys() - moves.keys():
        yield Violation(check=name, what=f"movement {key}: nobody asked for it", column=DOUBLED)


def units_are_conserved(case: Case) -> Found:
    """Opening stock, movements, confirmed orders and the counters of both stores add up, for each SKU."""
    name = "units are conserved"
    moved: Counter[str] = Counter()
    for _, sku, delta in case.evidence.movements:
        moved[sku] += delta
    sold: Counter[str] = Counter()
    for row in case.evidence.orders.values():
        for sku, units in row.lines if row.status == "confirmed" else ():
            sold[sku] += units
    for sku, product in case.evidence.products.items():
        left = product.opening + moved[sku] - sold[sku]
        free = int(product.free) if product.free and product.free.lstrip("-").isdigit() else None
        counters = {product.on_sale - product.confirmed, left, free}
        if len(counters) > 1:
            least = min((counter for counter in counters if counter is not None), default=0)
            text = (
                f"{sku}: {product.opening} at first {moved[sku]:+d} moved - {sold[sku]} in confirmed orders = {left}; "
                f"PostgreSQL {product.on_sale} - {product.confirmed}; Redis {product.free}"
            )
            column = UNDERSOLD if least < left or free is None else OVERSOLD
            yield Violation(check=name, what=text, column=column, wrong=abs(left - least) or 1)


def nothing_is_oversold(case: Case) -> Found:
    """No counter below zero, no unit confirmed beyond those on sale."""
    name = "nothing is oversold"
    for sku, product in case.evidence.products.items():
        over = max(product.confirmed - product.on_sale, -int(product.free or 0))
        if over > 0:
            text = f"{sku}: {product.confirmed} confirmed of {product.on_sale}, {product.free} free in Redis"
            yield Violation(check=name, what=text, column=OVERSOLD, wrong=over)


def nobody_is_refused_what_there_is(case: Case) -> Found:
    """No order is rejected that wants only what cannot have run out."""
    name = "nobody is refused what there is"
    for order_id, row in case.evidence.orders.items():
        if row.status == "rejected" and all(sku in case.never_short for sku, _ in row.lines):
            text = f"order {order_id}: rejected, though there was enough of {_units(row.lines)}"
            answers = case.accepted.get(order_id, ())
            since = answers[0].start if answers else 0.0
            yield Violation(check=name, what=text, column=UNDERSOLD, since=since)


def no_order_is_given_up(case: Case) -> Found:
    """An order fails only if it kills whoever works on it; none of the clients' orders does."""
    for order_id, row in case.evidence.orders.items():
        if row.status == "failed":
            answers = case.accepted.get(order_id, ())
            since = answers[0].start if answers else 0.0
            yield Violation(check="no order is given up", what=f"order {order_id} failed", since=since)


def states_move_forward(case: Case) -> Found:
    """Whoever asks after somebody has had an answer never hears an earlier state."""
    name = "states move forward"
    for order_id, answers in case.seen.items():
        for at, later in enumerate(answers):
            before = [one for one in answers[:at] if one.end < later.start and one.state != later.state]
            for earlier in before:
                if {earlier.state, later.state} == _CANCELLED_AGAIN and case.may_be_rolled_back(
                    order_id, later
                ):
                    continue
                if later.state == "queued" and case.may_be_taken_for_new(later):
                    continue
                if later.state in ("queued", "confirmed") and case.may_be_unpublished(later):
                    continue
                if later.state not in _FORWARD.get(earlier.state, ()):
                    text = f"order {order_id}: {earlier.state}, then {later.state}"
                    yield Violation(check=name, what=text, since=earlier.start, until=later.end)
        last = answers[-1]
        final = case.evidence.told.get(order_id, last.state)
        if {final, last.state} == _CANCELLED_AGAIN and case.may_be_rolled_back(order_id):
            continue
        if final != last.state and final not in _FORWARD.get(last.state, ()):
            text = f"order {order_id}: {last.state}, at rest {final}"
            yield Violation(check=name, what=text, since=last.start)


def nothing_is_shown_before_its_commit(case: Case) -> Found:
    """An end that a client has seen was in PostgreSQL by then. Cancelled orders were committed twice."""
    name = "nothing is shown before its commit"
    for order_id, answers in case.seen.items():
        row = case.evidence.orders.get(order_id)
        if row is None or row.committed_at is None:
            continue
        for one in answers:
            if one.state == row.status and one.end < row.committed_at - CLOCK_S:
                text = f"order {order_id}: {one.state} shown {row.committed_at - one.end:.3f} s before its commit"
                yield Violation(check=name, what=text, since=one.start, until=one.end)


def cancelled_orders_return_their_units_once(case: Case) -> Found:
    """By the ledger; and an order whose cancellation was accepted is cancelled, or was refused in the same moment."""
    name = "cancelled orders return their units once"
    for order_id, row in case.evidence.orders.items():
        if (row.sold, row.returned) not in _ledger_of(row):
            text = f"order {order_id}, {row.status}: {row.sold} units sold, {row.returned} returned by the ledger"
            column = UNDERSOLD if row.sold > row.returned else OVERSOLD
            yield Violation(check=name, what=text, column=column)
    for one in case.operations:
        row = case.evidence.orders.get(one.id)
        if one.op != "cancel" or one.outcome != OK or case.may_be_forgotten(one):
            continue
        if row is not None and _was_refused_meanwhile(row, one):
            continue
        if row is None or row.status != "cancelled":
            text = (
                f"order {one.id}: its cancellation was accepted, but it is {row.status if row else 'missing'}"
            )
            yield Violation(check=name, what=text, column=LOST, since=one.start)


def _was_refused_meanwhile(row: OrderRow, cancellation: Operation) -> bool:
    """Whether PostgreSQL said no before the decision could see the request: that end stays."""
    return row.status in {"rejected", "failed"} and (
        row.committed_at is None or row.committed_at < cancellation.end + DECIDED_WITHIN_S
    )


def _ledger_of(row: OrderRow) -> set[tuple[int, int]]:
    """The units sold and returned that an order may have in the ledger."""
    units = sum(units for _, units in row.lines)
    none, both = (0, 0), (units, units)
    return {"confirmed": {(units, 0)}, "cancelled": {none, both}}.get(row.status, {none})


def nothing_is_left_behind(case: Case) -> Found:
    """No lock, an empty journal."""
    for what in case.evidence.left:
        yield Violation(check="nothing is left behind", what=what)


def nothing_breaks(case: Case) -> Found:
    """A fault is answered with 503, or not at all; an error nobody thought of only where one was asked for."""
    broken = [one for one in case.operations if one.status == BROKEN]
    for one in broken[case.evidence.errors_asked_for :]:
        yield Violation(check="nothing breaks", what=f"{one.op} was answered with {BROKEN}", since=one.start)


def no_process_gives_up(case: Case) -> Found:
    """Whatever the stores do. A worker that ends by an error is started again, where somebody watches over it."""
    for what in case.evidence.gave_up:
        yield Violation(check="no process gives up", what=what)


def something_succeeded(case: Case) -> Found:
    """A system that refuses everything breaks no other promise."""
    confirmed = any(row.status == "confirmed" for row in case.evidence.orders.values())
    if not confirmed or not any(one.op == "poll" and one.state == "confirmed" for one in case.operations):
        yield Violation(
            check="something succeeded", what="nobody has seen an order of his confirmed", column=LOST
        )


def _units(lines: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Lines in an order of their own, so that they can be compared."""
    return tuple(sorted((sku, units) for sku, units in lines))


CHECKS: Final[Sequence[Callable[[Case], Found]]] = (
    every_accepted_order_has_one_end,
    one_key_is_one_order,
    orders_say_what_was_ordered,
    movements_happen_once,
    units_are_conserved,
    nothing_is_oversold,
    nobody_is_refused_what_there_is,
    no_order_is_given_up,
    states_move_forward,
    nothing_is_shown_before_its_commit,
    cancelled_orders_return_their_units_once,
    nothing_is_left_behind,
    nothing_breaks,
    no_process_gives_up,
    something_succeeded,
)
