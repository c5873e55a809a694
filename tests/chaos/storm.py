"""Faults injected and healed while clients order, and how long it takes until all is well again."""

import heapq
import itertools
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import psycopg
import redis

from shop import keys
from tests.chaos.fault import NotInjected
from tests.chaos.history import OK, History
from tests.chaos.schedule import Burst, Planned
from tests.chaos.site import Site

POLL_S: Final = 0.02
#: Between two tries to heal: what heals may itself be away because of another fault.
AGAIN_S: Final = 0.2
#: Without a fault an order ends long before.
STUCK_S: Final = 0.4
#: What has not recovered by then, does not recover.
RECOVERY_MAX_S: Final = 60.0

_AWAY: Final = (redis.RedisError, psycopg.Error, OSError)


@dataclass(kw_only=True)
class Injection:
    """A fault that was injected; times are Unix times.

    `in_flight`: accepted orders without an end at that moment. `missed`: why it did not come about, if so. `answered_s`,
    `recovered_s`: from its end to the next accepted order, and to the end of the last order accepted before; None where
    nobody waited for it.
    """

    fault: str
    injected_at: float
    healed_at: float = 0.0
    in_flight: int = 0
    missed: str = ""
    answered_s: float | None = None
    recovered_s: float | None = None


class DidNotRecover(Exception):
    """Orders of before a fault's end have no end of their own, long after it."""


class Storm:
    """Does bursts of faults to a site. `injections`: all so far. Not for threads: servers end with who started them."""

    def __init__(self, site: Site, history: History) -> None:
        self.injections: list[Injection] = []
        self._site = site
        self._history = history
        self._order = itertools.count()
        self._in_flight = 0
        self._active: list[tuple[Planned, Injection, Any]] = []

    def rage(self, burst: Burst) -> list[Injection]:
        """Inject the faults of a burst, and heal them; if it is measured, wait until all is well again."""
        stuck = self._stuck() if burst.is_measured else set()
        try:
            done = self._play(burst)
        except BaseException:
            for planned, injection, state in self._active:
                self._is_healed(planned, injection, state)
            raise
        self.injections += done
        if burst.is_measured:
            self._measure(done, stuck)
        time.sleep(burst.pause_s)
        return done

    def _play(self, burst: Burst) -> list[Injection]:
        began = time.monotonic()
        done: list[Injection] = []
        agenda: list[tuple[float, int, Callable[[], None]]] = []

        def at(moment: float, act: Callable[[], None]) -> None:
            heapq.heappush(agenda, (moment, next(self._order), act))

        def inject(planned: Planned) -> None:
            injection, state = self._inject(planned)
            done.append(injection)
            if not injection.missed:
                active = (planned, injection, state)
                self._active.append(active)
                heal(active, time.monotonic() + planned.hold_s)

        def heal(active: tuple[Planned, Injection, Any], end: float) -> None:
            now = time.monotonic()
            is_due = now >= end or active[0].fault.is_done(self._site, active[2])
            if is_due and self._is_healed(*active):
                self._active.remove(active)
            else:
                at(now + (AGAIN_S if is_due else min(POLL_S, end - now)), lambda: heal(active, end))

        for planned in burst.planned:
            at(began + planned.after_s, lambda planned=planned: inject(planned))
        while agenda:
            moment, _, act = heapq.heappop(agenda)
            time.sleep(max(0.0, moment - time.monotonic()))
            act()
        return done

    def _inject(self, planned: Planned) -> tuple[Injection, Any]:
        injection = Injection(fault=planned.fault.name, injected_at=time.time(), in_flight=self._count())
        state = None
        try:
            state = planned.fault.inject(self._site, Random(planned.seed))
        except NotInjected as missed:
            injection.missed = str(missed)
        except _AWAY as away:
            injection.missed = f"{type(away).__name__}: {away}".splitlines()[0]
        injection.healed_at = time.time()
        return injection, state

    def _is_healed(self, planned: Planned, injection: Injection, state: Any) -> bool:
        try:
            planned.fault.heal(self._site, state)
        except NotInjected as missed:
            injection.missed = str(missed)
        except _AWAY:
            return False
        injection.healed_at = time.time()
        return True

    def _count(self) -> int:
        with suppress(redis.RedisError):
            self._in_flight = self._site.redis.zcard(keys.OPEN_ORDERS)
        return self._in_flight

    def _stuck(self) -> set[str]:
        """Orders that still wait because of earlier faults: they have been open for a while."""
        open_before = self._open(time.time())
        time.sleep(STUCK_S)
        return open_before & self._open(time.time())

    def _measure(self, injections: Iterable[Injection], stuck: set[str]) -> None:
        """Wait for the ends of all orders accepted until now, but for those stuck before. Raises DidNotRecover."""
        healed = [one for one in injections if not one.missed]
        for one in healed:
            waiting = self._open(one.healed_at) - stuck
            while left := waiting & self._open(one.healed_at):
                self._insist(one, f"{len(left)} orders are still open, {min(left)} for example")
            one.recovered_s = time.time() - one.healed_at
            while (accepted_at := self._accepted_since(one.healed_at)) is None:
                self._insist(one, "no order is accepted")
            one.answered_s = accepted_at - one.healed_at

    def _open(self, since: float) -> set[str]:
        """The orders in the journal, as soon as Redis tells. Raises DidNotRecover."""
        while True:
            try:
                return set(self._site.redis.zrange(keys.OPEN_ORDERS, 0, -1))
            except redis.RedisError as away:
                if time.time() - since > RECOVERY_MAX_S:
                    raise DidNotRecover(f"Redis does not answer: {away}") from away
                time.sleep(POLL_S)

    def _accepted_since(self, moment: float) -> float | None:
        """When the first order asked for after the moment was accepted."""
        recent = itertools.takewhile(lambda one: one.end > moment, reversed(self._history.operations))
        ends = [one.end for one in recent if one.op == "order" and one.outcome == OK and one.start > moment]
        return min(ends, default=None)

    def _insist(self, injection: Injection, what: str) -> None:
        if time.time() - injection.healed_at > RECOVERY_MAX_S:
            raise DidNotRecover(f"{RECOVERY_MAX_S:g} s after the end of {injection.fault}: {what}")
        time.sleep(POLL_S)
