"""One run: start everything, let faults rage while clients order, come to rest, check."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psycopg
import redis

from shop import keys
from shop.stores import WebDatabase
from tests.chaos import checker, closing, evidence
from tests.chaos.asking import Buyer
from tests.chaos.case import Case
from tests.chaos.checker import OVERSOLD, Violation
from tests.chaos.clients import PLENTY, Crowd, on_sale
from tests.chaos.fault import Fault
from tests.chaos.history import OK, UNKNOWN, History, Operation
from tests.chaos.locks import Trace
from tests.chaos.point_faults import QUIET_SKU
from tests.chaos.schedule import Burst, bursts
from tests.chaos.site import Site
from tests.chaos.storm import DidNotRecover, Injection, Storm

#: MONITOR is on for so many seconds of each such period.
TRACED_S: Final = 10.0
TRACE_EVERY_S: Final = 40.0
#: Clients are at work for so long before the first fault, and after the last one.
CALM_S: Final = 2.0
#: Kinds by which the web tier cannot ask PostgreSQL for orders, and how long it does without it afterwards.
BLINDING: Final = ("postgres-", "backend-", "connections-", "orders-locked", "commits-cut")
BLIND_AFTER_S: Final = WebDatabase.PATIENCE_S + WebDatabase.PAUSE_S + 0.5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do. `most`: faults at most; 0: as many as there is time for."""

    seed: int
    seconds: float
    faults: Sequence[Fault]
    clients: int = 16
    most: int = 0
    append_fsync: str = "always"


@dataclass(kw_only=True)
class Result:
    """What was done and found. `locks_taken`: as seen by MONITOR, while it was on. `rest_s`: from the end to rest.

    `could_be_gone`, `gone`: accepted orders that faults could destroy by their nature, and did.
    """

    began_at: float = 0.0
    operations: Sequence[Operation] = ()
    injections: Sequence[Injection] = ()
    violations: list[Violation] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=dict)
    locks_taken: int = 0
    rest_s: float = 0.0
    could_be_gone: int = 0
    gone: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def is_green(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations


class Run:
    """A run in a folder of its own; `out` gets the history. `say` gets a line about each burst."""

    def __init__(self, plan: Plan, folder: Path, out: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._folder = folder
        self._out = out
        self._say = say
        self.result = Result()

    def __call__(self) -> Result:
        """Do it. Raises PartFailedError where the system cannot be started."""
        with (
            Site(self._folder, seed=self._plan.seed, append_fsync=self._plan.append_fsync) as site,
            History(self._out / "history.jsonl") as history,
            Trace(site.redis_server) as trace,
        ):
            self.result.versions = site.versions()
            stock = on_sale() | {QUIET_SKU: 10}
            site.put_on_sale(stock)
            url, api_key = site.status()["web_url"], site.status()["api_key"]
            self.result.began_at = time.time()
            self._storm(site, history, trace, url, api_key)
            with Buyer(url, api_key, history) as buyer:
                self._close(site, history, buyer, [*stock, *site.late_skus])
            self.result.operations = history.operations
            self._watch_locks(trace)
        return self.result

    def _storm(self, site: Site, history: History, trace: Trace, url: str, api_key: str) -> None:
        plan, storm = self._plan, Storm(site, history)
        self.result.injections = storm.injections
        with Crowd(url, api_key, history, seed=plan.seed, clients=plan.clients) as crowd:
            time.sleep(CALM_S)
            end = time.monotonic() + plan.seconds
            for burst in bursts(plan.seed, plan.faults):
                elapsed_s = time.time() - self.result.began_at
                trace.switch(on=elapsed_s % TRACE_EVERY_S < TRACED_S)
                try:
                    self._rage(site, history, storm, burst)
                except DidNotRecover as stuck:
                    self._note("the system recovers", str(stuck))
                if crowd.failure:
                    raise crowd.failure
                injected = sum(not one.missed for one in storm.injections)
                if time.monotonic() > end or (plan.most and injected >= plan.most):
                    break
            trace.switch(on=True)
            time.sleep(CALM_S)

    def _rage(self, site: Site, history: History, storm: Storm, burst: Burst) -> None:
        seen, began_at = len(history.operations), time.time()
        done = storm.rage(burst)
        if burst.is_measured:
            self.result.violations += _glance(site, began_at)
        passed_s = time.time() - began_at
        told = history.operations[seen:]
        accepted = sum(one.op == "order" and one.outcome == OK for one in told)
        unknown = sum(one.outcome == UNKNOWN for one in told)
        names = " + ".join(f"{one.fault} ({one.missed})" if one.missed else one.fault for one in done)
        recovered = [one.recovered_s for one in done if one.recovered_s is not None]
        recovery = f", recovered in {max(recovered):.1f} s" if recovered else ""
        elapsed_s = time.time() - self.result.began_at
        self._say(
            f"[{elapsed_s:7.1f} s] {len(storm.injections):4} {names}: {accepted / passed_s:.0f} orders/s, "
            f"{unknown} unknown{recovery}"
        )

    def _close(self, site: Site, history: History, buyer: Buyer, skus: Sequence[str]) -> None:
        self._say("healing everything, waiting for rest")
        try:
            closing.heal_everything(site)
            self.result.rest_s = closing.wait_for_rest(site)
            if any(loss.is_rollback for loss in site.losses):
                # What the operator is told to do after a power cut.
                site.reload(skus)
            placed = list(history.operations)
            closing.last_orders(site, buyer, skus, placed, self._plan.seed)
            closing.wait_for_rest(site)
        except closing.NoRest as unrest:
            self._note("the system comes to rest", str(unrest))
        ids = list({one.id for one in history.operations if one.op == "order" and one.outcome == OK})
        self._say(f"checking {len(ids)} orders")
        found = evidence.collect(site, buyer.states(ids), skus)
        blind = [
            (one.injected_at, one.healed_at + BLIND_AFTER_S)
            for one in self.result.injections
            if one.fault.startswith(BLINDING)
        ]
        case = Case(history.operations, found, never_short=PLENTY, losses=site.losses, blind=blind)
        self.result.violations += checker.check(case)
        self.result.could_be_gone = len(set().union(*(loss.orders for loss in site.losses)))
        self.result.gone = sum(
            order_id not in found.orders and case.may_be_gone(order_id) for order_id in ids
        )
        for order in found.orders.values():
            self.result.ended[order.status] = self.result.ended.get(order.status, 0) + 1

    def _watch_locks(self, trace: Trace) -> None:
        self.result.locks_taken = trace.watch.taken
        for what in trace.watch.violations:
            self._note("locks exclude", what)
        if not trace.watch.taken:
            self._note("locks exclude", "no lock was seen to be taken")

    def _note(self, check: str, what: str) -> None:
        self.result.violations.append(Violation(check=check, what=what))
        self._say(f"WRONG: {check}: {what}")


def _glance(site: Site, since: float) -> list[Violation]:
    """What can be seen at once, while orders flow: counters below zero, units confirmed beyond those on sale."""
    skus = list(on_sale())
    try:
        with site.books() as books:
            over = books.execute("SELECT sku FROM shop_product WHERE confirmed > on_sale OR confirmed < 0")
            wrong = [f"{sku}: confirmed beyond what is on sale" for (sku,) in over]
        free = zip(skus, site.redis.mget([keys.stock(sku) for sku in skus]), strict=True)
    except (psycopg.Error, redis.RedisError):
        return []
    wrong += [f"{sku}: {left} free in Redis" for sku, left in free if left and left.startswith("-")]
    return [
        Violation(check="nothing is oversold", what=what, column=OVERSOLD, since=since, until=time.time())
        for what in wrong
    ]
