"""Housekeeping that the scheduler asks for: nothing here is needed for an order that meets no fault."""

import time

import structlog

from shop import compaction, continuity, reconciliation, sweeper
from shop.stores import BrokenKey, StoreUnavailable, redis_client
from workers.app import app

log = structlog.get_logger()


@app.task(name="tasks.maintenance.sweep")
def sweep() -> dict[str, int]:
    """Find what got stuck and set it going again. Returns how many of each kind; nothing where that was done just now.

    Redis is asked to tidy up its file, if the moment is good.
    """
    try:
        if sweeper.was_just_here(redis_client()):
            return {}
        found = sweeper.sweep(redis_client())
        compaction.compact_when_quiet(redis_client())
        return found
    except StoreUnavailable as away:
        log.warning("sweep put off", reason=str(away))
        return {}
    except ExceptionGroup as failed:
        broken, bugs = failed.split(BrokenKey)
        if broken:
            log.error("parts of the sweep put off", reasons=sorted({str(key) for key in broken.exceptions}))
        if bugs:
            raise bugs from None
        return {}


@app.task(name="tasks.maintenance.follow", soft_time_limit=3600, time_limit=3660)
def follow() -> str:
    """PostgreSQL went back: let both stores tell one story again, and follow it. Returns what was done in a line."""
    try:
        return continuity.follow_anew(redis_client()).summary()
    except StoreUnavailable as away:
        log.warning("recovery put off", reason=str(away))
        return "put off"


@app.task(name="tasks.maintenance.reconcile")
def reconcile() -> str:
    """Once a minute: compare Redis with PostgreSQL and have it show what that has. Returns the verdict in a line."""
    try:
        if reconciliation.was_just_done(redis_client(), int(time.time() * 1000)):
            return "done just now"
        return reconciliation.reconcile(redis_client(), repair=True).summary()
    except StoreUnavailable as away:
        log.warning("reconcile put off", reason=str(away))
        return "put off"
