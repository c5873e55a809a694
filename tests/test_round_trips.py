"""Questions that wait at the same time share one round trip, and nobody pays for another's bad luck."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar

import pytest

from shop.round_trips import RoundTrips
from shop.stores import StoreUnavailable
from tests.builders import wait_until

#: A question that no trip survives, and one that finds the store away.
BAD, AWAY = -1, -2


class Store:
    """Answers a question by doubling it, when its door is open; remembers which questions came together, and when."""

    def __init__(self) -> None:
        self.trips: list[list[int]] = []
        self.began_at: list[float] = []
        self.door = asyncio.Event()
        self.door.set()

    async def answer(self, questions: Sequence[int]) -> list[int]:
        self.trips.append(list(questions))
        self.began_at.append(asyncio.get_running_loop().time())
        await self.door.wait()
        if BAD in questions:
            raise ValueError("bad")
        if AWAY in questions:
            raise StoreUnavailable("away")
        return [2 * question for question in questions]


def in_a_loop(story: Callable[[Store, "RoundTrips[int, int]"], Awaitable[None]], *, most: int = 100) -> None:
    """Run a story with a store and the trips to it; it must come to its end within 10 s."""

    async def told() -> None:
        store = Store()
        async with asyncio.timeout(10):
            await story(store, RoundTrips(store.answer, most=most))

    asyncio.run(told())


async def asked(trips: "RoundTrips[int, int]", *questions: int) -> list["asyncio.Task[int]"]:
    """Questions that wait for their replies."""
    tasks = [asyncio.create_task(trips.ask(question)) for question in questions]
    await asyncio.sleep(0)
    return tasks


async def on_the_way(store: Store, trips: int) -> None:
    """Wait until so many trips have begun."""
    await asyncio.to_thread(wait_until, lambda: len(store.trips) >= trips)


def test_questions_that_wait_at_the_same_time_share_one_trip() -> None:
    async def story(store: Store, trips: "RoundTrips[int, int]") -> None:
        replies = await asyncio.gather(*(trips.ask(question) for question in range(50)))

        assert replies == [2 * question for question in range(50)]
        assert store.trips == [list(range(50))]

    in_a_loop(story)


def test_what_comes_while_a_trip_is_under_way_shares_the_next_one() -> None:
    async def story(store: Store, trips: "RoundTrips[int, int]") -> None:
        store.door.clear()
        first = await asked(trips, 1)
        await on_the_way(store, 1)
        others = await asked(trips, 2, 3) + await asked(trips, 4)
        store.door.set()

        assert await asyncio.gather(*first, *others) == [2, 4, 6, 8]
        assert store.trips == [[1], [2, 3, 4]]

    in_a_loop(story)


def test_a_trip_takes_no_more_questions_than_allowed() -> None:
    async def story(store: Store, trips: "RoundTrips[int, int]") -> None:
        await asyncio.gather(*(trips.ask(question) for question in range(7)))

        assert store.trips == [[0, 1, 2], [3, 4, 5], [6]]

    in_a_loop(story, most=3)


def test_a_lone_question_does_not_wait_for_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RoundTrips, "PACE_S", 3600)
    monkeypatch.setattr(RoundTrips, "PACE_MAX_S", 3600)

    async def story(_: Store, trips: "RoundTrips[int, int]") -> None:
        assert await trips.ask(1) == 2

    in_a_loop(story)


def gaps_between_trips(of: int) -> list[float]:
    """Seconds between the trips of so many questions each, which follow each other at once."""
    gaps: list[float] = []

    async def story(store: Store, trips: "RoundTrips[int, int]") -> None:
        for _ in range(4):
            await asyncio.gather(*map(trips.ask, range(of)))

        assert [len(trip) for trip in store.trips] == [of] * 4
        gaps.extend(after - before for before, after in zip(store.began_at, store.began_at[1:], strict=False))

    in_a_loop(story)
    return gaps


def test_the_more_came_together_the_later_the_next_trip_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RoundTrips, "PACE_S", 0.02)
    monkeypatch.setattr(RoundTrips, "PACE_MAX_S", 0.1)

    assert min(gaps_between_trips(of=1)) >= 0.019
    assert min(gaps_between_trips(of=3)) >= 0.059
    assert 0.099 <= min(gaps_between_trips(of=20)) < 0.4


def test_a_crowd_that_fills_the_next_trip_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RoundTrips, "PACE_S", 3600)
    monkeypatch.setattr(RoundTrips, "PACE_MAX_S", 3600)

    async def story(store: Store, trips: "RoundTrips[int, int]") -> None:
        await asyncio.gather(*map(trips.ask, range(15)))

        assert [len(trip) for trip in store.trips] == [5, 5, 5]

    in_a_loop(story, most=5)


@pytest.mark.parametrize("moment", ["before the trip", "during the trip"])
def test_one_who_gives_up_does_not_hurt_the_others(moment: str) -> None:
    async def story(store: Store, trips: "RoundTrips[int, int]") -> None:
        store.door.clear()
        first = await asked(trips, 0) if moment == "before the trip" else []
        if first:
            await on_the_way(store, 1)
        patient, impatient, last = await asked(trips, 1, 2, 3)
        if not first:
            await on_the_way(store, 1)
        impatient.cancel()
        await asyncio.wait([impatient])
        store.door.set()

        assert await asyncio.gather(patient, last, *first) == [2, 6, *(0 for _ in first)]
        assert impatient.cancelled()
        assert store.trips == ([[0], [1, 3]] if first else [[1, 2, 3]])
        assert await trips.ask(4) == 8

    in_a_loop(story)


def test_a_question_that_no_trip_survives_hurts_nobody_else() -> None:
    async def story(_: Store, trips: "RoundTrips[int, int]") -> None:
        told = await asyncio.gather(*await asked(trips, 1, BAD, 3), return_exceptions=True)

        assert [repr(reply) for reply in told] == ["2", "ValueError('bad')", "6"]
        assert await trips.ask(4) == 8

    in_a_loop(story)


def test_a_store_that_is_away_is_asked_once_for_all() -> None:
    async def story(store: Store, trips: "RoundTrips[int, int]") -> None:
        told = await asyncio.gather(*await asked(trips, 1, AWAY, 3), return_exceptions=True)

        assert [repr(reply) for reply in told] == ["StoreUnavailable('away')"] * 3
        assert len(store.trips) == 1
        assert await trips.ask(4) == 8

    in_a_loop(story)


def test_a_store_that_does_not_answer_is_given_up_at_the_deadline_and_asked_again_by_the_next() -> None:
    async def story(store: Store, trips: "RoundTrips[int, int]") -> None:
        clock = asyncio.get_running_loop().time
        store.door.clear()
        began = clock()
        hopeless = asyncio.create_task(trips.ask(1, deadline=began + 0.1))
        await on_the_way(store, 1)
        behind = asyncio.create_task(trips.ask(2, deadline=began + 5))
        with pytest.raises(StoreUnavailable):
            await hopeless
        took = clock() - began
        store.door.set()

        assert 0.09 < took < 2
        assert await behind == 4

    in_a_loop(story)


def test_a_trip_belongs_to_no_request() -> None:
    request: ContextVar[str] = ContextVar("request", default="nobody's")
    seen: list[str] = []

    async def trip(questions: Sequence[int]) -> Sequence[int]:
        seen.append(request.get())
        return questions

    async def story() -> None:
        request.set("the first one's")
        await RoundTrips(trip, most=1).ask(1)

    asyncio.run(story())

    assert seen == ["nobody's"]
