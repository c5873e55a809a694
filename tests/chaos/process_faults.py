"""Processes that die, freeze, or are asked to end."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from random import Random
from typing import Final

from shop import keys
from tests.chaos.fault import Fault, NotInjected
from tests.chaos.site import Site
from workers.proc import children_by_parent, descendants, is_running
from workers.processes import PartFailedError
from workers.sign_of_life import SILENT_S

#: Processes that a fault is done to, all of them.
Pick = Callable[[Site, Random], Sequence[int]]

SHORT_S: Final = (0.3, 1.5)
#: Longer than a lock lives.
LONG_S: Final = (keys.LOCK_TTL_MS / 1000 + 0.5, keys.LOCK_TTL_MS / 1000 + 1.5)
#: With room for a machine that is busy.
REPLACED_WITHIN_S: Final = 2 * SILENT_S


def _one(random: Random, pids: Sequence[int], what: str) -> list[int]:
    if not pids:
        raise NotInjected(f"no {what} runs")
    return [random.choice(pids)]


def _web_process(site: Site, random: Random) -> list[int]:
    children = children_by_parent()
    pids = [pid for parent in site.main_pids("web") for pid in children.get(parent, ())]
    return _one(random, pids, "web process")


def _pool_process(site: Site, random: Random) -> list[int]:
    return _one(random, pool_processes(site), "pool process")


def pool_processes(site: Site) -> list[int]:
    """The processes that work on orders."""
    children = children_by_parent()
    return [pid for parent in site.main_pids("worker") for pid in children.get(parent, ())]


def _main(part: str) -> Pick:
    return lambda site, random: _one(random, site.main_pids(part), part)


def _backend(site: Site, random: Random) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'reserva'"
    with site.books() as books:
        return _one(random, [pid for (pid,) in books.execute(query)], "connection")


def _redis(site: Site, _: Random) -> list[int]:
    return [site.redis_server.pid]


def _postmaster(site: Site, _: Random) -> list[int]:
    return [site.postgres_server.pid]


def _all_of_postgres(site: Site, _: Random) -> list[int]:
    return [site.postgres_server.pid, *descendants(site.postgres_server.pid)]


def send(number: signal.Signals, pids: Sequence[int]) -> list[int]:
    """Send a signal to processes; those that were there."""
    reached = []
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            reached.append(pid)
    return reached


def _signal(number: signal.Signals, pick: Pick) -> Callable[[Site, Random], list[int]]:
    def inject(site: Site, random: Random) -> list[int]:
        reached = send(number, pick(site, random))
        if not reached:
            raise NotInjected("it had ended")
        return reached

    return inject


def _wake(_: Site, pids: list[int]) -> None:
    send(signal.SIGCONT, pids)


@contextmanager
def still(pids: Sequence[int], for_s: float) -> Iterator[None]:
    """Freeze processes for so long, then go on while they are still frozen."""
    frozen = send(signal.SIGSTOP, pids)
    try:
        time.sleep(for_s)
        yield
    finally:
        send(signal.SIGCONT, frozen)


def revive_stores(site: Site, killed: Sequence[int]) -> None:
    """Start again what was killed; a killed process is gone some milliseconds later."""
    while any(map(is_running, killed)):
        time.sleep(0.005)
    for server in (site.redis_server, site.postgres_server):
        site.revive(server)


def _restart_all(part: str) -> Callable[[Site, Random], list[int]]:
    """One after the other: the next one when the one before is replaced."""

    def inject(site: Site, _: Random) -> list[int]:
        old = site.main_pids(part)
        for pid in old:
            send(signal.SIGTERM, [pid])
            deadline = time.monotonic() + 20
            while pid in site.main_pids(part) or len(site.main_pids(part)) < len(old):
                if time.monotonic() > deadline:
                    raise PartFailedError(f"{part} was not replaced within 20 s")
                time.sleep(0.05)
        if not old:
            raise NotInjected(f"no {part} runs")
        return old

    return inject


def _killed(name: str, what: str, pick: Pick, *, answers: bool) -> Fault:
    return Fault(
        name=name,
        description=f"SIGKILL to {what}",
        answers=answers,
        inject=_signal(signal.SIGKILL, pick),
        heal=revive_stores,
    )


def _frozen(name: str, what: str, pick: Pick, *, answers: bool) -> Iterator[Fault]:
    for suffix, hold_s, is_rare in (("", SHORT_S, False), ("-long", LONG_S, True)):
        yield Fault(
            name=f"{name}{suffix}",
            description=f"SIGSTOP to {what} for {hold_s[0]:g} to {hold_s[1]:g} s",
            answers=answers,
            inject=_signal(signal.SIGSTOP, pick),
            heal=_wake,
            hold_s=hold_s,
            is_rare=is_rare,
        )


def _stands_still(name: str, what: str, pick: Pick) -> Fault:
    """Frozen until its parent has replaced it."""
    return Fault(
        name=name,
        description=f"SIGSTOP to {what}, until it is replaced",
        answers=True,
        inject=_signal(signal.SIGSTOP, pick),
        heal=_wake,
        hold_s=(REPLACED_WITHIN_S, REPLACED_WITHIN_S),
        is_done=lambda _, pids: not any(map(is_running, pids)),
        is_rare=True,
    )


FAULTS: Final = (
    _killed("web-killed", "a web process", _web_process, answers=True),
    _killed("web-parent-killed", "the parent of the web processes", _main("web"), answers=False),
    _killed("worker-killed", "a worker", _main("worker"), answers=True),
    _killed("pool-process-killed", "a process of a worker's pool", _pool_process, answers=True),
    _killed("scheduler-killed", "the scheduler", _main("scheduler"), answers=True),
    _killed("redis-killed", "Redis", _redis, answers=False),
    _killed("postgres-killed", "PostgreSQL's postmaster", _postmaster, answers=True),
    _killed("backend-killed", "a process of PostgreSQL that serves a connection", _backend, answers=True),
    *_frozen("web-frozen", "a web process", _web_process, answers=True),
    *_frozen("worker-frozen", "a worker's parent", _main("worker"), answers=True),
    *_frozen("pool-process-frozen", "a process of a worker's pool", _pool_process, answers=True),
    *_frozen("scheduler-frozen", "the scheduler", _main("scheduler"), answers=True),
    _stands_still("web-stands-still", "a web process", _web_process),
    _stands_still("worker-stands-still", "a worker's parent", _main("worker")),
    _stands_still("scheduler-stands-still", "the scheduler", _main("scheduler")),
    *_frozen("redis-frozen", "Redis", _redis, answers=False),
    *_frozen("postgres-frozen", "all of PostgreSQL", _all_of_postgres, answers=True),
    *_frozen("backend-frozen", "a process of PostgreSQL that serves a connection", _backend, answers=True),
    Fault(
        name="web-restarted",
        description="SIGTERM to the web's parent under load, as a deploy does",
        answers=False,
        inject=_restart_all("web"),
    ),
    Fault(
        name="workers-restarted",
        description="SIGTERM to one worker after the other under load, as a deploy does",
        answers=True,
        inject=_restart_all("worker"),
        is_rare=True,
    ),
)
