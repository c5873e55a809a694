"""Questions to a store that wait at the same time share one round trip, as a database shares its commits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from shop.stores import StoreUnavailable

Question = TypeVar("Question")
Reply = TypeVar("Reply")


@dataclass(slots=True)
class _Waiting(Generic[Question, Reply]):
    question: Question
    deadline: float | None
    reply: "asyncio.Future[Reply]"


class RoundTrips(Generic[Question, Reply]):
    """Asks a store for one event loop. `trip` turns at most `most` questions into their replies, in the same order.

    One trip is under way at a time, and what arrives meanwhile shares the next one, so trips grow with the load by
    themselves; a question that comes alone is asked at once.
    """

    #: After a trip the next one lets this pass for each question that was in it, and at most `PACE_MAX_S`. A trip costs both
    #: sides as much as a few questions do, so a crowd is made to gather; whoever comes after one alone hardly waits. Nor
    #: does a crowd that fills the next trip: what waits after a stall is worked off at full speed.
    PACE_S, PACE_MAX_S = 0.002, 0.010

    def __init__(
        self, trip: Callable[[Sequence[Question]], Awaitable[Sequence[Reply]]], *, most: int
    ) -> None:
        self._trip = trip
        self._most = most
        self._waiting: list[_Waiting[Question, Reply]] = []
        self._running: asyncio.Task[None] | None = None
        self._next_at = 0.0

    async def ask(self, question: Question, deadline: float | None = None) -> Reply:
        """The reply to a question. Raises what the trip raised, and `StoreUnavailable` at the deadline (loop time)."""
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Question, Reply] = _Waiting(question, deadline, loop.create_future())
        self._waiting.append(waiting)
        if self._running is None:
            # In a context of its own: it goes on for others when the request that began it is over.
            self._running = loop.create_task(self._run(), context=Context())
        return await waiting.reply

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while self._waiting:
                if len(self._waiting) < self._most:
                    await asyncio.sleep(max(0.0, self._next_at - clock()))
                together, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                self._next_at = clock() + min(self.PACE_S * len(together), self.PACE_MAX_S)
                await self._go(together)
        finally:
            self._running = None

    async def _go(self, together: list[_Waiting[Question, Reply]]) -> None:
        """One trip; it ends at the deadline of the one who has waited longest, for all who share it."""
        together = [waiting for waiting in together if not waiting.reply.done()]
        if not together:
            return
        try:
            async with asyncio.timeout_at(together[0].deadline):
                replies = await self._trip([waiting.question for waiting in together])
        except TimeoutError:
            _refuse(together, StoreUnavailable("no answer in time"))
        except StoreUnavailable as away:
            _refuse(together, away)
        except Exception as bug:  # noqa: BLE001 - who asked raises it
            if len(together) == 1:
                _refuse(together, bug)
            else:
                for waiting in together:  # alone, so that a bad one hurts nobody else
                    await self._go([waiting])
        else:
            for waiting, reply in zip(together, replies, strict=True):
                if not waiting.reply.done():
                    waiting.reply.set_result(reply)


def _refuse(together: list[_Waiting[Question, Reply]], error: Exception) -> None:
    for waiting in together:
        if not waiting.reply.done():
            waiting.reply.set_exception(error)
