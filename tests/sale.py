"""A sale in which anything may happen in any order, as a state machine for Hypothesis.

Three processes (`tests.puppets`) work for clients, queue, sweeper and reconcile, one call to Redis or PostgreSQL at a time.
Between two calls others go on, locks run out, counters, keys and scripts vanish, messages are lost or come twice. A call may
be lost, its reply may be lost, its process may die. After each step nothing wrong may show; when all has healed, every unit
is accounted for.

Names, ids and the sweeper's time are counted, not read from a clock or drawn, so that a story is the same each time.
"""

import itertools
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shop import books, keys, movements, reconciliation, scripts, stock
from shop.domain import Order
from shop.fulfilment import Rules, fulfil
from shop.models import Product, StockMovement
from shop.stores import StoreUnavailable, redis_client, rows
from tests.builders import a_sku, an_order, assert_at_rest, free_in_redis
from tests.puppets import Died, Fate, Puppet, Work
from tests.works import HOUSEKEEPING, accept, ask_to_cancel, do

#: What may follow what a client was shown.
MAY_BECOME = {"queued": {"confirmed", "rejected", "failed", "cancelled"}, "confirmed": {"cancelled"}}
UNITS = 10
EARLY_MS = 1_700_000_000_000
SESSION = uuid.uuid4().hex[:8]

SCRIPTS = sorted(path.name.partition(".")[0] for path in (files("shop") / "lua").iterdir())

_numbers = itertools.count(1)


@dataclass(kw_only=True)
class Crew:
    """The processes, the rules they fulfil orders by, and what happened to them in all stories together."""

    rules: Rules
    puppets: list[Puppet] = field(default_factory=lambda: [Puppet(f"puppet {n}") for n in range(3)])
    happened: "Counter[str]" = field(default_factory=Counter)

    def close(self) -> None:
        """End them."""
        for puppet in self.puppets:
            puppet.close()


some_process = st.integers(0, 2)
some_sku = st.integers(0, 1)
some_number = st.integers(0, 3)
some_units = st.integers(1, 9)


def if_somebody_is(*, busy: bool) -> Callable[..., Any]:
    """Of a rule: a process has work in hand, or has none."""
    return precondition(lambda sale: any(puppet.is_busy == busy for puppet in sale.crew.puppets))


class Sale(RuleBasedStateMachine):
    """Two SKUs, four orders, four movements, three processes."""

    crew: Crew

    def __init__(self) -> None:
        super().__init__()
        self.client = redis_client()
        self.rules = self.crew.rules
        self.client.flushdb()
        for script in SCRIPTS:
            self.client.script_load(scripts.text(script))
        self.run = next(_numbers)
        self.skus = [a_sku(stock=UNITS, sku=f"sale {self.run:06} {name}") for name in "ab"]
        self.orders: dict[int, Order] = {}
        self.moves: dict[int, tuple[str, str, int]] = {}
        #: What clients were told: each order's latest state, movements made, cancellations promised.
        self.shown: dict[str, str] = {}
        self.made: set[str] = set()
        self.wishes: set[str] = set()
        #: The most that was ever on sale of a SKU.
        self.most: dict[str, int] = {}

    # --- somebody begins ----------------------------------------------------------------------------

    def of(self, process: int, *, is_busy: bool) -> Puppet:
        """One of the processes that are busy, or of those that are not."""
        puppets = [puppet for puppet in self.crew.puppets if puppet.is_busy == is_busy]
        return puppets[process % len(puppets)]

    def begin(self, process: int, work: Work, heard: Callable[[Any], object] = lambda answer: None) -> None:
        """Let a free process begin a work; `heard`: what its client does with the answer."""
        self.of(process, is_busy=False).begin(lambda client: heard(work(client)))

    @initialize(
        attempts=st.sampled_from([1, 1, 2, 5]),
        is_loaded=st.booleans(),
        wanted=st.lists(st.tuples(some_sku, some_units, st.booleans()), min_size=2, max_size=4),
    )
    def open_the_shop(self, attempts: int, is_loaded: bool, wanted: list[tuple[int, int, bool]]) -> None:
        """So often an order may be tried. Some are accepted at the beginning, and two workers have the same one."""
        self.rules = replace(self.crew.rules, max_attempts=attempts)
        if is_loaded:
            stock.refresh(self.client, self.skus)
        for number, (sku, units, both) in enumerate(wanted):
            order = self.order(number, sku, units, both)
            accept(self.client, order, self.key(number))
            self.shown[order.id] = "queued"
        self.take_a_message(0, is_lost=False)
        self.deliver_again(1, {0})

    def key(self, number: int) -> str:
        """An idempotency key."""
        return f"{self.run}-{number}"

    def order(self, number: int, sku: int, units: int, both: bool) -> Order:
        """The order of a number, made when it is first asked for. Its id stands for its key, as derived ids do."""
        lines = [(name, units) for name in self.skus if both or name == self.skus[sku]]
        names = {"id": self.uuid(number), "accepted_at_ms": EARLY_MS + number}
        order = msgspec.structs.replace(an_order(*lines, key=self.key(number)), **names)
        return self.orders.setdefault(number, order)

    def uuid(self, number: int) -> str:
        """An id that is not used in another story, not even of another run."""
        return f"{SESSION}-{self.run:04x}-8000-8000-{number:012x}"

    @if_somebody_is(busy=False)
    @rule(process=some_process, number=some_number, sku=some_sku, units=some_units, both=st.booleans())
    def place(self, process: int, number: int, sku: int, units: int, both: bool) -> None:
        """A client places an order, or the same one again."""
        order = self.order(number, sku, units, both)
        self.begin(
            process,
            lambda client: accept(client, order, self.key(number)),
            lambda answer: self.shown.setdefault(order.id, "queued"),
        )

    @if_somebody_is(busy=False)
    @rule(process=some_process, is_lost=st.sampled_from([False, False, False, True]))
    def take_a_message(self, process: int, is_lost: bool) -> None:
        """A worker gets the next message; or the broker loses it."""
        if message := self.client.rpop(keys.ORDER_QUEUE):
            self.crew.happened["a message was lost" if is_lost else "a message was taken"] += 1
            if not is_lost:
                self.begin(process, lambda client: do(client, message, self.rules))

    @if_somebody_is(busy=False)
    @rule(process=some_process, numbers=st.sets(some_number, min_size=1, max_size=3))
    def deliver_again(self, process: int, numbers: set[int]) -> None:
        """A worker gets orders that another one has or had, as a batch."""
        orders = [self.orders[n] for n in sorted(numbers) if n in self.orders]
        if promised := [order for order in orders if order.id in self.shown]:
            self.begin(process, lambda client: fulfil(promised, client=client, rules=self.rules))

    @if_somebody_is(busy=False)
    @rule(process=some_process, number=some_number)
    def wish_to_cancel(self, process: int, number: int) -> None:
        """A client cancels an order."""
        if (order := self.orders.get(number)) and order.id in self.shown:
            self.begin(
                process,
                lambda client: ask_to_cancel(client, order),
                lambda answer: self.wishes.add(order.id) if answer in {"requested", "cancelled"} else None,
            )

    @if_somebody_is(busy=False)
    @rule(process=some_process, number=some_number, sku=some_sku, units=some_units, takes=st.booleans())
    def move(self, process: int, number: int, sku: int, units: int, takes: bool) -> None:
        """A client changes stock, or asks for the same change again."""
        asked = (self.uuid(0x100 + number), self.skus[sku], -units if takes else units)
        request, name, delta = self.moves.setdefault(number, asked)
        self.begin(
            process,
            lambda client: movements.move(
                client=client, request=request, by="shop", sku=name, delta=delta, reason="count"
            ),
            lambda answer: self.made.add(request) if isinstance(answer, movements.Movement) else None,
        )

    @if_somebody_is(busy=False)
    @rule(process=some_process, sku=some_sku)
    def look_after_a_counter(self, process: int, sku: int) -> None:
        """Somebody publishes what PostgreSQL has of a SKU."""
        self.begin(process, lambda client: stock.refresh(client, [self.skus[sku]]))

    @if_somebody_is(busy=False)
    @rule(process=some_process, task=st.sampled_from(sorted(HOUSEKEEPING)))
    def keep_house(self, process: int, task: str) -> None:
        """The sweeper takes everybody for dead; reconcile must not find what nobody did."""
        self.begin(process, HOUSEKEEPING[task], self.nobody_edited_a_counter)

    def nobody_edited_a_counter(self, found: object) -> None:
        """By a report."""
        if isinstance(found, reconciliation.Report):
            causes = {difference.cause for difference in found.differences}
            assert causes <= {"a change of stock has not reached Redis"}

    # --- and goes on --------------------------------------------------------------------------------

    @if_somebody_is(busy=True)
    @rule(process=some_process, calls=st.integers(1, 6), fate=st.sampled_from([Fate.RUNS, *Fate]))
    def step(self, process: int, calls: int, fate: Fate) -> None:
        """A process makes some calls; the last one has this fate."""
        puppet = self.of(process, is_busy=True)
        for _ in range(calls - 1):
            puppet.step()
            if not puppet.is_busy:
                return
        puppet.step(fate)
        self.crew.happened[fate.value] += 1

    @rule(
        what=st.sampled_from(["a lock ran out", "a counter was lost", "a key was lost", "scripts were lost"]),
        at=some_number,
    )
    def lose(self, what: str, at: int) -> None:
        """A lock and the time of last attempts run out, and who is at work does not know; Redis loses a counter or a key, or
        is told SCRIPT FLUSH."""
        sku = self.skus[at % 2]
        if what == "a lock ran out":
            self.client.delete(*map(keys.last_attempt, self.shown))
        names = {
            "a lock ran out": keys.lock(sku),
            "a counter was lost": keys.stock(sku),
            "a key was lost": keys.idempotency("shop", self.key(at)),
        }
        lost = self.client.delete(names[what]) if what in names else self.client.script_flush()
        self.crew.happened[what] += lost

    # --- what holds at any moment -------------------------------------------------------------------

    @invariant()
    def nobody_found_a_bug(self) -> None:
        """A work may die or hear that a store is away; it raises nothing else."""
        for puppet in self.crew.puppets:
            if isinstance(puppet.outcome, BaseException) and not isinstance(
                puppet.outcome, Died | StoreUnavailable
            ):
                outcome, puppet.outcome = puppet.outcome, None
                raise outcome

    @invariant()
    def nothing_shown_is_taken_back_and_all_of_it_is_decided(self) -> None:
        """States move forward; what is no longer queued is in the books; a key stands for its order."""
        decided = {order_id: row.status.value for order_id, row in books.recorded(list(self.shown)).items()}
        for order_id, was in self.shown.items():
            now = self.client.hget(keys.order(order_id), "status")
            assert now == was or now in MAY_BECOME[was], f"{order_id} was shown as {was}, then as {now}"
            assert now == "queued" or decided[order_id] in {now, *MAY_BECOME.get(now, ())}
            self.shown[order_id] = now
        for number, order in self.orders.items():
            assert self.client.get(keys.idempotency("shop", self.key(number))) in {None, order.id}

    @invariant()
    def units_are_neither_made_nor_lost(self) -> None:
        """Of each SKU, in PostgreSQL; and a counter shows no more than was ever on sale, and never less than nothing."""
        for sku, on_sale, moved, confirmed, sold, ordered, _ in rows("judged_skus", skus=self.skus):
            assert (on_sale, confirmed, confirmed) == (moved, sold, ordered), f"the books on {sku}"
            assert 0 <= confirmed <= on_sale
            self.most[sku] = max(on_sale, self.most.get(sku, 0))
            counter = self.client.get(keys.stock(sku))
            assert counter is None or 0 <= int(counter) <= self.most[sku], f"{sku} shows {counter} units"

    # --- and in the end -----------------------------------------------------------------------------

    def teardown(self) -> None:
        """All goes on and heals; then each order has one end, each movement was made once, no unit is missing."""
        for puppet in self.crew.puppets:
            puppet.go_on()
        self.nobody_found_a_bug()
        self.client.delete(*map(keys.lock, self.skus))
        for _ in range(4):
            self.heal()
        self.nothing_shown_is_taken_back_and_all_of_it_is_decided()
        self.account_for_all()

    def heal(self) -> None:
        """What the sweeper and the workers do in some seconds, in which what was begun before is over."""
        self.client.delete(*map(keys.last_attempt, self.shown))
        HOUSEKEEPING["enqueue"](self.client)
        while message := self.client.rpop(keys.ORDER_QUEUE):
            do(self.client, message, self.rules)
        HOUSEKEEPING["cancel"](self.client)
        stock.refresh(self.client, self.skus)

    def account_for_all(self) -> None:
        """Conservation."""
        for order_id, status in self.shown.items():
            self.crew.happened[status] += 1
            assert status != "queued", f"{order_id} never ended"
            assert status in {"cancelled", "rejected", "failed"} or order_id not in self.wishes
        for request, _, delta in self.moves.values():
            found = StockMovement.objects.filter(request=request).count()
            assert found == 1 if request in self.made else found <= 1
            self.crew.happened["stock was taken away" if delta < 0 else "stock was delivered"] += found
        stock.refresh(self.client, self.skus)
        for product in Product.objects.filter(sku__in=self.skus):
            assert free_in_redis(self.client, product.sku) == product.on_sale - product.confirmed
        assert_at_rest(self.client)
