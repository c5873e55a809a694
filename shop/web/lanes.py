"""Places for pages: a few are worked on at a time, a short queue waits behind them, and all others are refused at once.

A page costs as much processor time as 20 to 100 orders, and both share one event loop and one interpreter lock. Without
a bound a crowd of visitors, or a flood of sign-ins, would stop the intake of orders.
"""

import asyncio
from bisect import insort
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar

from shop.web.problems import Kind, Problem

P = ParamSpec("P")
T = TypeVar("T")

#: How far behind others those are served from whose address wrong passwords came.
SUSPECT: Final = 1_000


class Crowded(Problem):
    """All places are taken, and the queue is full or moves too slowly."""

    def __init__(self) -> None:
        super().__init__(kind=Kind.UNAVAILABLE)


class InLoop(Executor):
    """Runs a call at once, where it is submitted: for code that only Django takes for one that waits.

    A thread for each of its middlewares would double what a page costs. Each switch between threads of Python also makes
    the event loop wait for the interpreter lock. A view that did wait for PostgreSQL here would get Django's
    `SynchronousOnlyOperation`.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The finished call."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            future.set_exception(error)
        return future


@dataclass(order=True)
class _Waiting:
    rank: int
    number: int
    address: str = field(compare=False)
    turn: "asyncio.Future[Executor]" = field(compare=False)


class Lane:
    """The places of one kind of page; each place is what the page's blocking parts run on.

    `queue`: requests that may wait. `patience_s`: for how long, from their arrival.
    """

    def __init__(self, places: Sequence[Executor], *, queue: int, patience_s: float) -> None:
        self._free = list(places)
        self._queue_max = queue
        self._patience_s = patience_s
        self._waiting: list[_Waiting] = []
        self._number = 0

    @asynccontextmanager
    async def place(self, address: str, arrived_at: float, *, behind: int = 0) -> AsyncIterator[Executor]:
        """Have a place for as long as the block lasts. Raises `Crowded`.

        `address`: where the request comes from; of several addresses that wait each gets its turn. `arrived_at`: loop
        time. `behind`: how many of one address may pass before this request does.
        """
        place = self._free.pop() if self._free else await self._turn(address, arrived_at, behind)
        try:
            yield place
        finally:
            self._pass_on(place)

    async def _turn(self, address: str, arrived_at: float, behind: int) -> Executor:
        waiting = self._line_up(address, behind)
        try:
            async with asyncio.timeout_at(arrived_at + self._patience_s):
                return await asyncio.shield(waiting.turn)
        except TimeoutError:
            self._give_up(waiting)
            raise Crowded from None
        except asyncio.CancelledError:
            self._give_up(waiting)
            raise

    def _give_up(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        elif waiting.turn.exception() is None:  # its place came in the same moment
            self._pass_on(waiting.turn.result())

    def _line_up(self, address: str, behind: int) -> _Waiting:
        """Wait behind one request of each address and before the second ones. The last of too many is refused."""
        rank = behind + sum(each.address == address for each in self._waiting)
        self._number += 1
        waiting = _Waiting(rank, self._number, address, asyncio.get_running_loop().create_future())
        insort(self._waiting, waiting)
        if len(self._waiting) > self._queue_max:
            last = self._waiting.pop()
            if last is waiting:
                raise Crowded
            last.turn.set_exception(Crowded())
        return waiting

    def _pass_on(self, place: Executor) -> None:
        if self._waiting:
            self._waiting.pop(0).turn.set_result(place)
        else:
            self._free.append(place)


def _threads(count: int, name: str) -> list[Executor]:
    """Places for views that wait for PostgreSQL: one thread each, and with it one connection at most."""
    return [ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{name}-{n}") for n in range(count)]


_in_loop: Final = InLoop()
#: Pages of the shop that are only looked at. Each place may cost every turn of the loop one page's processor time.
VISITORS: Final = Lane([_in_loop] * 4, queue=64, patience_s=1.5)
#: Forms of the shop: those who buy do not wait for those who look. They leave an order most of its time.
FORMS: Final = Lane([_in_loop] * 4, queue=64, patience_s=1.0)
#: Style sheets, scripts and icons of the pages that are shown; each costs a tenth of a page.
FILES: Final = Lane([_in_loop] * 4, queue=256, patience_s=3.0)
#: Pages for staff where the browser is not known to be theirs: the form to sign in, above all.
DOOR: Final = Lane(_threads(2, "door"), queue=32, patience_s=6.0)
#: Passwords. Each costs half a second of a processor; with two at a time orders came noticeably later.
SIGN_IN: Final = Lane(_threads(1, "sign-in"), queue=16, patience_s=6.0)
#: Pages for staff whose sessions are known.
STAFF: Final = Lane(_threads(3, "staff"), queue=64, patience_s=6.0)
