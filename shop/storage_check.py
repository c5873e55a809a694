"""Whether Redis is set up to keep what it is given: checked when a process starts, and told loudly."""

import redis
import structlog

from shop.stores import redis_client

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
