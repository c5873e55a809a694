"""Processes that make one call to Redis or PostgreSQL at a time, when told to, and suffer what they are told with it.

A puppet is a thread with its own connections. It stands still before each of its calls, for as long as anybody likes, as a
process does that the system does not run; so one thread can play any number of processes, in any order, the same each time.
"""

import threading
from collections.abc import Callable
from enum import Enum
from queue import SimpleQueue
from typing import Any

import redis
from django.conf import settings
from django.db import OperationalError, connection
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError

Work = Callable[["redis.Redis"], object]
Call = Callable[[], Any]


#: A work that makes more calls than that goes in circles.
MOST_CALLS = 1000


class Fate(Enum):
    """What becomes of a call."""

    RUNS = "runs"
    REPLY_LOST = "runs, and its reply is lost"
    NEVER_ARRIVES = "never arrives"
    DIES = "is never made: its process dies"


class Died(BaseException):
    """Stands for SIGKILL: no code is to catch it."""


class Puppet:
    """One process. `outcome`: what its last work returned, or raised."""

    def __init__(self, name: str) -> None:
        self.outcome: object = None
        self.is_busy = False
        self._is_dead = False
        self._told: SimpleQueue[Any] = SimpleQueue()
        self._stands: SimpleQueue[None] = SimpleQueue()
        self._client = _client(self._make)
        self._thread = threading.Thread(target=self._live, name=name)
        self._thread.start()

    def begin(self, work: Work) -> None:
        """Go up to the first call of a work."""
        assert not self.is_busy
        self.is_busy = True
        self._told.put(work)
        self._stands.get()

    def step(self, fate: Fate = Fate.RUNS) -> None:
        """Make the call it stands before, and go up to the next one or the end."""
        self._told.put(fate)
        self._stands.get()

    def go_on(self) -> None:
        """Work to the end, without faults."""
        for _ in range(MOST_CALLS):
            if not self.is_busy:
                return
            self.step()
        raise AssertionError(f"{self._thread.name} comes to no end")

    def close(self) -> None:
        """End the thread, which has no work."""
        self._told.put(None)
        self._thread.join()
        self._client.close()

    def _live(self) -> None:
        connection.execute_wrappers.append(self._execute)
        while work := self._told.get():
            self._is_dead = False
            try:
                self.outcome = work(self._client)
            except (Exception, Died) as error:  # noqa: BLE001 - whoever began the work looks at it
                self.outcome = error
            self.is_busy = False
            self._stands.put(None)
        connection.close()

    def _execute(self, execute: Callable[..., Any], *call: Any) -> Any:
        return self._make(lambda: execute(*call), OperationalError)

    def _make(self, call: Call, error: type[Exception]) -> Any:
        """Stand before a call until its fate is told. What the dead do in their `finally` is not done."""
        if self._is_dead:
            raise Died
        self._stands.put(None)
        match self._told.get():
            case Fate.DIES:
                self._is_dead = True
                connection.close()
                raise Died
            case Fate.NEVER_ARRIVES:
                raise error("the call was lost")
            case Fate.REPLY_LOST:
                call()
                raise error("the reply was lost")
        return call()


def _client(make: Callable[[Call, type[Exception]], Any]) -> "redis.Redis":
    class Line(Pipeline):  # type: ignore[type-arg]
        def execute(self, *args: Any, **options: Any) -> Any:
            return make(lambda: super(Line, self).execute(*args, **options), RedisConnectionError)

    class Client(redis.Redis):
        def execute_command(self, *args: Any, **options: Any) -> Any:
            return make(lambda: super(Client, self).execute_command(*args, **options), RedisConnectionError)

        def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
            return Line(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    return Client.from_url(settings.REDIS_URL, decode_responses=True)
