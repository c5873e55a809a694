"""Whether the stores are what the shop relies on: told loudly by processes that start, and by `migrate`."""

from collections.abc import Sequence
from typing import Any, Final

import redis
import structlog
from django.core import checks
from django.db import connections

from shop.stores import redis_client

log = structlog.get_logger()

#: What must be so, and what happens otherwise.
REQUIRED = {
    "maxmemory-policy": ("noeviction", "Redis may throw away orders and stock counters when memory is short"),
    "appendonly": ("yes", "a restart of Redis loses the orders that wait"),
}

#: The first that knows MERGE in a statement's WITH, which `persist.sql` needs.
POSTGRESQL_AT_LEAST: Final = 17


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


def check_postgresql(
    app_configs: Sequence[Any] | None, databases: Sequence[str] | None = None, **_: Any
) -> list[checks.CheckMessage]:
    """A system check, for `migrate`: a server that could not write one order is refused before anything relies on it."""
    versions = []
    for name in databases or ():
        with connections[name].cursor() as cursor:
            cursor.execute("SELECT current_setting('server_version_num')::int / 10000")
            versions += [version for (version,) in cursor.fetchall()]
    return [
        checks.Error(
            f"PostgreSQL {version} is too old: {POSTGRESQL_AT_LEAST} or newer is needed.",
            hint="Upgrade the server that DATABASE_URL names.",
            id="shop.E002",
        )
        for version in versions
        if version < POSTGRESQL_AT_LEAST
    ]
