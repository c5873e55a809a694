"""Clients that order, repeat, cancel, restock and ask, at random but from a seed, and write down what they are told."""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, Self

from tests.chaos.asking import Asker, Lines
from tests.chaos.history import ENDED, OK, UNKNOWN, History, Operation

#: How often a client repeats a request whose outcome it does not know.
REPEATS: Final = 8
#: Average pause of a client between two requests.
PAUSE_S: Final = 0.05

HOT: Final = ("hot-0", "hot-1")
SCARCE: Final = tuple(f"scarce-{number}" for number in range(12))
PLENTY: Final = tuple(f"plenty-{number:02d}" for number in range(60))
UNKNOWN_SKU: Final = "no-such-sku"


def on_sale() -> dict[str, int]:
    """The catalogue: some SKUs that run out again and again, many that never do."""
    return dict.fromkeys(HOT, 150) | dict.fromkeys(SCARCE, 40) | dict.fromkeys(PLENTY, 10_000_000)


class Crowd:
    """So many clients in a thread of their own, from entering to leaving. Leaving waits for the requests under way.

    `failure`: what broke the clients themselves, if anything did.
    """

    def __init__(self, url: str, api_key: str, history: History, *, seed: int, clients: int) -> None:
        self.asker = Asker(url, api_key, history, connections=clients)
        self.failure: BaseException | None = None
        self._seed = seed
        self._count = clients
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="clients", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Begin nothing new, and wait for the end of what was begun."""
        self._stopping.set()
        self._thread.join()

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._stopping.is_set()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._count):
                    group.create_task(_Client(self, number, Random(f"{self._seed}/{number}")).live())
        except BaseExceptionGroup as failure:
            self.failure = failure
        finally:
            self.asker.close()


class _Client:
    """One client: what it has ordered, and what it does next."""

    def __init__(self, crowd: Crowd, number: int, random: Random) -> None:
        self._crowd = crowd
        self._asker = crowd.asker
        self._number = number
        self._random = random
        self._sent = 0
        self._placed: deque[tuple[str, Lines]] = deque(maxlen=200)
        self._open: list[str] = []
        self._ended: deque[str] = deque(maxlen=100)

    async def live(self) -> None:
        """Do one thing after the other until the crowd stops."""
        acts = (self._order, self._poll, self._cancel, self._move, self._repeat, self._reuse_key)
        while not self._crowd.is_stopping:
            act = self._random.choices(acts, weights=(50, 25, 6, 8, 8, 3))[0]
            await act()
            if len(self._open) > 5:
                await self._poll()
            await asyncio.sleep(self._random.expovariate(1 / PAUSE_S))

    async def _order(self) -> None:
        key, lines = self._new_key(), self._lines()
        self._placed.append((key, lines))
        await self._place(key, lines)

    def _new_key(self) -> str:
        self._sent += 1
        return f"c{self._number}-{self._sent}"

    def _lines(self) -> Lines:
        random = self._random
        kind = random.random()
        if kind < 0.25:
            return ((random.choice(HOT), random.randint(1, 8)),)
        if kind < 0.45:
            return tuple((sku, random.randint(1, 4)) for sku in random.sample(SCARCE, random.randint(1, 3)))
        wanted = [(sku, random.randint(1, 5)) for sku in random.sample(PLENTY, random.randint(1, 4))]
        if kind < 0.6:
            wanted.append((random.choice(HOT + SCARCE), 1))
        elif kind < 0.63:
            wanted.append((UNKNOWN_SKU, 1))
        return tuple(wanted)

    async def _place(self, key: str, lines: Lines) -> None:
        told = await self._until_known(lambda: self._asker.place(self._number, key, lines))
        if told.outcome == OK and told.id not in self._open:
            (self._ended if told.state in ENDED else self._open).append(told.id)

    async def _move(self) -> None:
        """Deliveries of what runs out, corrections of anything."""
        sku, delta = self._random.choice(HOT + SCARCE), self._random.randint(1, 30)
        if self._random.random() < 0.4:
            sku, delta = self._random.choice(HOT + SCARCE + PLENTY), -self._random.randint(1, 10)
        key = f"m-{self._new_key()}"
        await self._until_known(lambda: self._asker.move(self._number, key, sku, delta))

    async def _repeat(self) -> None:
        """The same request once more, though it was answered."""
        if self._placed:
            await self._place(*self._random.choice(self._placed))

    async def _reuse_key(self) -> None:
        """Another order under a key that is taken."""
        if self._placed:
            key, lines = self._random.choice(self._placed)
            await self._place(key, ((lines[0][0], lines[0][1] + 1), *lines[1:]))

    async def _cancel(self) -> None:
        if known := [*self._open, *list(self._ended)[-10:]]:
            order_id = self._random.choice(known)
            await self._until_known(lambda: self._asker.cancel(self._number, order_id))

    async def _poll(self) -> None:
        """Ask for an order that has no end yet; now and then for one that has, which must not change."""
        if self._open and (not self._ended or self._random.random() < 0.8):
            order_id = self._random.choice(self._open)
        elif self._ended:
            order_id = self._random.choice(self._ended)
        else:
            return
        told = await self._asker.poll(self._number, order_id)
        if told.state in ENDED and order_id in self._open:
            self._open.remove(order_id)
            self._ended.append(order_id)

    async def _until_known(self, ask: Callable[[], Awaitable[Operation]]) -> Operation:
        """Whoever does not know whether something happened asks for it again; some clients go away at once."""
        repeats = REPEATS if self._random.random() < 0.85 else 0
        told = await ask()
        while told.outcome == UNKNOWN and repeats and not self._crowd.is_stopping:
            await asyncio.sleep(self._random.uniform(0.02, 0.6))
            told = await ask()
            repeats -= 1
        return told
