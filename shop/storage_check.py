"""Whether Redis is set up to keep what it is given: checked when a process starts, and told loudly."""

import redis
import structlog

from shop.stores import redis_client, store_faults, web_redis

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


def redis_problems() -> list[str]:
    """The problems of the configured Redis; none can be told where it forbids CONFIG. Raises `StoreUnavailable`."""
    with store_faults():
        try:
            return problems(redis_client().config_get("maxmemory-policy", "appendonly"))
        except redis.ResponseError:
            return []


async def warn_about_redis() -> None:
    """Log what is wrong with Redis; a Redis that is away is no reason not to start."""
    try:
        found = problems(await web_redis().config_get("maxmemory-policy", "appendonly"))
    except redis.RedisError as error:
        log.warning("Redis settings could not be checked", reason=str(error))
        return
    for problem in found:
        log.critical("unsafe Redis settings", problem=problem)
