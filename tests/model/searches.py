"""What is searched: the worlds in which everything must hold, and what must fail where a safeguard is left out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PROTOCOL: Final = Path(__file__).with_name("protocol.pml")

#: What a search finds where it finds nothing, and where spin shows a cycle in which the orders never come to rest.
HOLDS: Final = "holds"
NEVER_RESTS: Final = "never_at_rest"


#: What may happen in a world, as `protocol.pml` names it: nothing of it in an uneventful one.
_EVENTS: Final = (
    "FAULTS",
    "ROLLBACKS",
    "PGBACK",
    "IDENTITY",
    "CANCELS",
    "READS",
    "POISON",
    "COPIES",
    "HELD",
    "APART",
    "PROMPT",
)


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search of all that may happen.

    `world`: what differs from an uneventful world, named as in `protocol.pml`. `expected`: `HOLDS`, or the property that
    fails. `liveness`: whether something good never happens, not whether something bad does. `quick`: part of `make test`.
    """

    name: str
    world: dict[str, int] = field(default_factory=dict)
    mutant: str = "none"
    expected: str = HOLDS
    liveness: bool = False
    quick: bool = False

    @property
    def definitions(self) -> dict[str, str]:
        """Everything that `protocol.pml` wants defined."""
        calm = dict.fromkeys(_EVENTS, 0) | {"LOCKS": 1}
        chosen = calm | self.world | {"LIVENESS": int(self.liveness)}
        return {name: str(value) for name, value in chosen.items()} | {"MUTANT": self.mutant}


def _safe(name: str, *, mutant: str = "none", quick: bool = False, **world: int) -> Search:
    return Search(name=name, mutant=mutant, world=world, quick=quick)


def _ends(name: str, *, quick: bool = False, **world: int) -> Search:
    return Search(name=f"{name}: every order ends", world=world, liveness=True, quick=quick)


def _without(mutant: str, expected: str, *, quick: bool = False, **world: int) -> Search:
    return Search(
        name=f"mutant {mutant}",
        world=world,
        mutant=mutant,
        expected=expected,
        liveness=expected == NEVER_RESTS,
        quick=quick,
    )


SEARCHES: Final = (
    _safe("any three faults", FAULTS=3),
    _safe("any two faults, no locks", FAULTS=2, LOCKS=0),
    _safe("any two faults, nobody outlives his lock", FAULTS=2, PROMPT=1, quick=True),
    _safe("any two faults and copies of messages, nobody outlives his lock", FAULTS=2, COPIES=1, PROMPT=1),
    _safe("an order that kills its workers", FAULTS=1, POISON=1),
    _safe("a client cancels", FAULTS=1, CANCELS=1),
    _safe("a client cancels, and another one reads", FAULTS=1, CANCELS=1, READS=1),
    _safe("Redis goes back", FAULTS=1, ROLLBACKS=1),
    _safe("Redis goes back twice", ROLLBACKS=2),
    _safe("a client cancels and Redis goes back: units alone", CANCELS=1, ROLLBACKS=1),
    _safe("a row is held", FAULTS=1, HELD=1),
    _safe("a row is held, and a neighbour must not wait", FAULTS=1, HELD=1, APART=1, PROMPT=1, quick=True),
    _safe("PostgreSQL goes back", PGBACK=1, PROMPT=1),
    _safe("PostgreSQL goes back, and workers are slow", PGBACK=1),
    _safe("PostgreSQL goes back, and a row is held", PGBACK=1, PROMPT=1, HELD=1),
    _safe("PostgreSQL goes back, and a client cancels", PGBACK=1, PROMPT=1, CANCELS=1),
    _safe("locks one by one, sorted", PROMPT=1, mutant="sorted_locks"),
    _ends("any fault", FAULTS=1),
    _ends("any fault, no locks", FAULTS=1, LOCKS=0),
    _ends("any fault, nobody outlives his lock", FAULTS=1, PROMPT=1, quick=True),
    _ends("an order that kills its workers", POISON=1),
    _ends("a client cancels", CANCELS=1),
    _ends("Redis goes back", ROLLBACKS=1),
    _ends("a row is held", HELD=1),
    _without("blind_del", "foreign_lock_released", quick=True),
    _without("locks_ignored", "locks_do_not_exclude", PROMPT=1),
    _without("no_expiry", "not_at_rest", FAULTS=1),
    _without("unsorted_locks", "not_at_rest", PROMPT=1, quick=True),
    _without("no_journal", "not_at_rest", FAULTS=1),
    _without("no_sweeper", "not_at_rest", FAULTS=1, quick=True),
    _without("no_attempts", NEVER_RESTS, POISON=1),
    _without("given_up_at_once", "given_up_at_work", FAULTS=2, PROMPT=1, COPIES=1),
    _without("early_release", "shown_before_the_commit", quick=True),
    _without("no_read_back", "shown_before_the_commit", FAULTS=1),
    _without("decided_twice", "a_second_end"),
    _without("no_constraint", "oversold", ROLLBACKS=1),
    _without("redis_refuses", "refused_what_there_is", FAULTS=1),
    _without("blocked_stops_all", "neighbour_waits", HELD=1, APART=1, PROMPT=1, quick=True),
    _without("counter_by_difference", "not_at_rest", FAULTS=1),
    _without("version_ignored", "not_at_rest"),
    _without("old_settle_ignored", "not_at_rest", FAULTS=1),
    _without("no_epoch", "shown_before_the_commit", PGBACK=1, PROMPT=1),
    _without("late_epoch", "shown_before_the_commit", PGBACK=1, PROMPT=1),
    _without("history_ignored", "shown_before_the_commit", PGBACK=1, PROMPT=1),
    _without("backwards", "went_back", CANCELS=1),
    _without("end_replaced", "went_back", CANCELS=1, READS=1, quick=True),
    _without("cancelled_twice", "units_do_not_add_up", CANCELS=1),
)
