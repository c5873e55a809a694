"""Hypothesis looks for a sale (`tests.sale`) that ends badly, among sales in which anything happens in any order.

`STATE_MACHINE_EXAMPLES=5000` searches for longer, and elsewhere each time; the seed that it prints, given as
`STATE_MACHINE_SEED`, repeats a search.
"""

import os
import random
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from shop import keys
from shop.fulfilment import Rules
from tests.puppets import Fate
from tests.sale import Crew, Sale
from tests.test_controls import RED, books_wiped_afterwards, switched_off  # noqa: F401 - fixtures
from tests.works import HOUSEKEEPING, clock

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "0"))
SEED = int(os.environ.get("STATE_MACHINE_SEED", "0")) or (random.getrandbits(32) if EXAMPLES else 1)
#: Sales in a search. What is rare may not have happened in one: what a sale meets depends a little on how fast its processes
#: are. Then further ones, shorter.
SALES, FURTHER_SALES, SEARCHES = 100, 40, 5
#: Locks, and the time of a last attempt, run out when a story says so, not when a machine is slow.
LONG_MS = 600_000
#: Nobody waits for a lock: whoever finds it taken comes again.
LOCKS = Rules(lock_ttl_ms=LONG_MS, attempt_ms=LONG_MS)
NO_LOCKS = Rules(lock_ttl_ms=0, attempt_ms=LONG_MS)


@pytest.fixture
def crew(client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, rules: Rules) -> Iterator[Crew]:
    """Three processes; nobody waits for locks, and without locks nobody takes any."""
    monkeypatch.setattr(time, "time", clock())
    monkeypatch.setattr(keys, "LOCK_TTL_MS", LONG_MS)
    crew = Crew(rules=rules)
    yield crew
    crew.close()


def search(crew: Crew, *, examples: int, shrinks: bool = False, further: int = 0) -> None:
    """Let Hypothesis look for a sale that ends badly: always in the same places, as long as the seed is the same."""
    told = seed(SEED + further)(type("Told", (Sale,), {"crew": crew}))
    run_state_machine_as_test(
        told,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            database=None,
            deadline=None,
            phases=[Phase.generate, *([Phase.shrink] if shrinks else [])],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def search_on(crew: Crew) -> None:
    """Search again elsewhere where a search found nothing: on a slow machine sales meet other things."""
    for further in range(SEARCHES):
        search(crew, examples=SALES, further=further)


@pytest.mark.parametrize(
    "rules",
    # Locks keep processes apart: what ends well without them is harder.
    [pytest.param(LOCKS, id="locks", marks=pytest.mark.depth), pytest.param(NO_LOCKS, id="no locks")],
)
def test_whatever_happens_in_whatever_order_every_unit_is_accounted_for(crew: Crew) -> None:
    print(f"STATE_MACHINE_SEED={SEED}")

    wanted = {
        *(fate.value for fate in Fate),
        *("confirmed", "rejected", "failed", "cancelled"),
        *("stock was taken away", "stock was delivered"),
        *("a message was taken", "a message was lost"),
        *("a counter was lost", "a key was lost", "scripts were lost"),
        *(["a lock ran out"] if crew.rules is LOCKS else []),
    }
    for further in range(SEARCHES):
        sales = EXAMPLES or (FURTHER_SALES if further else SALES)
        search(crew, examples=sales, shrinks=bool(EXAMPLES), further=further)
        if wanted <= set(+crew.happened):
            break

    print(dict(crew.happened))
    assert wanted - set(+crew.happened) == set()


# --- negative controls ----------------------------------------------------------------------------

CONTROLS = [
    (
        "an order keeps its first row",
        "decide",
        "intents[r.place] := 'known';",
        "",
    ),
    (
        "a cancellation returns units once",
        "cancel.sql",
        "AND status = 'confirmed' FOR NO KEY UPDATE",
        "AND status IN ('confirmed', 'cancelled') FOR NO KEY UPDATE",
    ),
]


@pytest.mark.parametrize("rules", [NO_LOCKS], ids=[""])
@pytest.mark.parametrize(
    ("where", "guard", "instead"),
    [
        # The other one is found at once.
        pytest.param(*row[1:], id=row[0], marks=[pytest.mark.depth] if row[1] == "cancel.sql" else [])
        for row in CONTROLS
    ],
)
def test_without_its_safeguard_a_sale_is_found_that_ends_badly(
    crew: Crew,
    switched_off: Callable[[str, str, str], None],  # noqa: F811 - the fixture
    where: str,
    guard: str,
    instead: str,
) -> None:
    switched_off(where, guard, instead)

    with pytest.raises(RED):
        search_on(crew)


@pytest.mark.parametrize("rules", [LOCKS], ids=[""])
def test_without_the_sweeper_an_order_is_found_that_never_ends(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HOUSEKEEPING, "enqueue", lambda client: None)

    with pytest.raises(AssertionError, match="never ended"):
        search(crew, examples=20)
