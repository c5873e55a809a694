"""Whether the stores are as a process needs them: checked when it starts, and logged loudly.

A process that Redis or PostgreSQL refuses something that its work needs does not start: it would accept, or be sent, what it
can't end. A store that is unavailable is no reason not to start.
"""

import redis
import structlog
from django.db import connection

from shop import postgres_permissions, redis_memory, redis_permissions
from shop.redis_permissions import Process
from shop.stores import StoreUnavailable, redis_client

log = structlog.get_logger()

#: What must be so, and what happens otherwise.
REQUIRED = {
    "maxmemory-policy": ("noeviction", "Redis may throw away orders and stock counters when memory is short"),
    "appendonly": ("yes", "a restart of Redis loses the orders that wait"),
}


def problems(config: dict[str, str]) -> list[str]:
    """Each setting of a Redis that can lose what it was given."""
    return [
        f"Redis has {name}={config[name]}, must be {wanted}: {harm}"
        for name, (wanted, harm) in REQUIRED.items()
        if name in config and config[name] != wanted
    ]


def warn_about_redis() -> list[str]:
    """Log, and return, what is wrong with Redis. One that is away or forbids CONFIG is no reason not to start."""
    try:
        # Redis 6 takes one name at a time.
        answers = [redis_client().config_get(wanted) for wanted in REQUIRED]
    except redis.RedisError as error:
        log.warning("Redis settings could not be checked", reason=str(error))
        return []
    found = problems({name: value for answer in answers for name, value in answer.items()})
    for problem in found:
        log.critical("unsafe Redis settings", problem=problem)
    return found


def warn_about_memory() -> bool:
    """Log, and return, that nothing stops new orders before Redis's memory is full."""
    try:
        memory = redis_memory.look(redis_client())
    except StoreUnavailable as away:
        log.warning("Redis's memory could not be looked at", reason=str(away))
        return False
    if memory is not None and memory.limit_bytes is not None:
        return False
    cause = (
        "it allows no INFO"
        if memory is None
        else "it has maxmemory 0 and does not report the memory of its machine"
    )
    log.warning("nothing stops new orders before the memory of Redis is full", reason=f"Redis: {cause}")
    return True


def insist(process: Process) -> None:
    """Log what this process lacks. Raises SystemExit where it can't do its work without.

    Orders are accepted without PostgreSQL, so a web process starts all the same; `/readyz` names what its pages meet.
    """
    refused, lacking = _refused(process), _lacking(process)
    for problem in (*refused, *lacking):
        log.critical("this process can't do its work", process=str(process), problem=problem)
    if refused or (lacking and process is not Process.WEB):
        raise SystemExit(1)


def is_refused_by_redis(process: Process) -> bool:
    """Whether Redis refuses something that this process needs, which is logged; one that is unavailable refuses nothing."""
    refused = _refused(process)
    for problem in refused:
        log.critical("this process can't do its work", process=str(process), problem=problem)
    return bool(refused)


def _refused(process: Process) -> list[str]:
    try:
        return redis_permissions.refused(process)
    except StoreUnavailable as away:
        log.warning("permissions in Redis could not be checked", reason=str(away))
        return []


def _lacking(process: Process) -> list[str]:
    try:
        return postgres_permissions.lacking(process)
    except StoreUnavailable as away:
        log.warning("permissions in PostgreSQL could not be checked", reason=str(away))
        return []
    finally:
        connection.close()  # it may be about to fork
