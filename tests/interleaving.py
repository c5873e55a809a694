"""Telling a story in every order of its calls to the stores that can make a difference, by means of frontrun.

The workers of a story run as threads, one at a time, and are switched at their calls to Redis and PostgreSQL. Orders that
differ only in calls to different stores count as one (dynamic partial order reduction). Sleeping takes no time: who waits
for a lock goes on when all others have ended or wait too. Nothing is left to chance: each run tries the same orders.
"""

import gc
import hashlib
import logging
import re
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import frontrun
import pytest
import redis
from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import Cursor
from frontrun import _redis_client
from frontrun._dpor_runtime.scheduler import DporScheduler
from frontrun._tracing import TraceFilter
from frontrun.common import InterleavingResult
from redis.client import Pipeline

from shop import figures, scripts
from shop.domain import Order
from shop.stores import sql
from tests.builders import assert_at_rest, status_in_books, status_in_redis

Work = Callable[["redis.Redis"], object]
Note = Callable[[str], None]


@dataclass(kw_only=True)
class Story:
    """Who works at once, who tidies up when they have ended, and what must be true then.

    `ends`: the statuses with which `orders` may end, sorted, each in Redis and in the books. `and_so`: what else is true.
    In any case all units are accounted for, nothing is left behind, and nobody has sounded an alarm. `switches`: how often
    a worker that could go on may lose its turn, None without limit; many calls make very many orders.
    """

    works: Sequence[Work]
    orders: Sequence[Order] = ()
    ends: Container[tuple[str, ...]] = ((),)
    and_so: Callable[[], None] = lambda: None
    afterwards: Work = lambda client: None
    switches: int | None = None


Tell = Callable[["redis.Redis"], Story]


def as_for_processes(patch: pytest.MonkeyPatch) -> None:
    """Let frontrun 0.7 treat threads as what they stand for: processes, which share nothing but the stores."""
    # It runs under its own command line, or where it is told that it does.
    patch.setenv("FRONTRUN_ACTIVE", "1")
    # No line of Python is a place to switch at. (Traced, variables of comprehensions look shared on Python 3.11.)
    patch.setattr(TraceFilter, "should_trace_file", lambda self, filename: False)
    # A call that a worker is about to make has not been made: frontrun does the same for processes of its own.
    patch.setattr(
        DporScheduler, "_flush_other_pending_io_for_current_io_unlocked", lambda self, thread_id: None
    )
    # Our scripts make the names of keys themselves: each call to Redis counts as touching all of it.
    patch.setattr(_redis_client, "_needs_coarse_fallback", lambda *call: True)
    # Figures are told by a thread of their own, which frontrun would wait for; no story is about them.
    patch.setattr(figures.Tally, "_see_to_it", lambda self: None)
    # A pipeline would ask for its scripts first, a call within a call, which frontrun loses its way in. They are there.
    patch.setattr(Pipeline, "load_scripts", lambda self: None)


@contextmanager
def no_garbage_collected_but_here() -> Iterator[None]:
    """Collect garbage when told to alone.

    A client of Redis that is collected takes a lock, as frontrun knows locks. Where that came while frontrun saw to the
    release of another one, in the same thread, frontrun waited for itself, for ever.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


class Search:
    """Searches stories for an order of calls after which something is wrong. `told`: the orders it tried, in words."""

    def __init__(self, client: "redis.Redis", log: pytest.LogCaptureFixture) -> None:
        self._client = client
        self._log = log
        self._words: dict[str, str] = {}
        self._calls: list[str] = []
        self._workers: list[tuple[redis.Redis, BaseDatabaseWrapper]] = []
        self.told: list[str] = []

    def __call__(self, tell: Tell) -> InterleavingResult:
        """Tell a story in every order of calls that can make a difference, up to the first that ends badly."""
        self._learn_words()
        story = tell(self._client)
        workers = range(len(story.works))
        with no_garbage_collected_but_here():
            return frontrun.explore(
                setup=partial(self._begin, tell),
                workers=[partial(self._work, at) for at in workers],
                invariant=self._end,
                preemption_bound=story.switches,
                clock="virtual",
                # Of real time: an execution takes milliseconds, but a machine that is busy may stand still for seconds.
                timeout_per_run=30,
                warn_nondeterministic_sql=False,
                reproduce_on_failure=0,
            )

    def _learn_words(self) -> None:
        for name in _names("sql"):
            self._words[sql(name)] = name
        for name in _names("lua"):
            source = scripts.text(name)
            self._client.script_load(source)
            self._words[hashlib.sha1(source.encode()).hexdigest()] = name

    def _begin(self, tell: Tell) -> Story:
        gc.collect()
        self._client.flushdb()
        story = tell(self._client)
        while len(self._workers) < len(story.works):
            note = partial(self._note, len(self._workers))
            self._workers.append((_a_client(note), _a_database(note)))
        self._calls.clear()
        self._log.clear()
        return story

    def _note(self, at: int, call: str) -> None:
        self._calls.append(f"{at} {self._words.get(call, call)}")

    def _work(self, at: int, story: Story) -> None:
        client, connections["default"] = self._workers[at]
        story.works[at](client)

    def _end(self, story: Story) -> bool:
        self.told.append(", ".join(self._calls))
        story.afterwards(self._client)
        try:
            self._account_for(story)
        except AssertionError as wrong:
            raise AssertionError(f"{wrong}\nafter {self.told[-1]}") from wrong
        return True

    def _account_for(self, story: Story) -> None:
        alarms = [record.getMessage() for record in self._log.records if record.levelno >= logging.ERROR]
        assert not alarms, alarms
        statuses = [str(status_in_books(order)) for order in story.orders]
        assert tuple(sorted(statuses)) in story.ends, f"the orders ended as {statuses}"
        shown = [status_in_redis(self._client, order) for order in story.orders]
        assert shown == statuses, f"the orders ended as {statuses}, and Redis says {shown}"
        story.and_so()
        assert_at_rest(self._client)

    def close(self) -> None:
        """Close the workers' connections."""
        for client, database in self._workers:
            client.close()
            database.close()


def _names(folder: str) -> list[str]:
    return [path.name.partition(".")[0] for path in (files("shop") / folder).iterdir()]


# Connections that are open before the story begins, and note each call at the moment when it is made.

_SCRIPT_OR_COMMAND = re.compile(rb"\r\n([0-9a-f]{40})\r\n|\*\d+\r\n\$\d+\r\n(?!EVALSHA)(\w+)")


def _a_client(note: Note) -> "redis.Redis":
    pool = redis.ConnectionPool.from_url(settings.REDIS_URL, decode_responses=True)
    plain: Any = pool.connection_class

    class Noting(plain):
        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            for script, name in _SCRIPT_OR_COMMAND.findall(b"".join(command)):
                note((script or name).decode())
            super().send_packed_command(command, check_health)

    pool.connection_class = Noting
    client = redis.Redis.from_pool(pool)
    client.ping()
    return client


def _a_database(note: Note) -> BaseDatabaseWrapper:
    class Noting(Cursor):
        def execute(self, query: Any, *args: Any, **options: Any) -> Any:
            note(str(query))
            return super().execute(query, *args, **options)

    database = connections.create_connection("default")
    options = {**database.settings_dict["OPTIONS"], "cursor_factory": Noting}
    database.settings_dict = {**database.settings_dict, "OPTIONS": options}
    database.inc_thread_sharing()
    database.ensure_connection()
    return database
