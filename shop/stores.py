"""Connections to Redis and PostgreSQL, and the one error that means: a store is away, try again later."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from time import monotonic
from typing import Any, TypeAlias

import psycopg
import redis
import redis.asyncio
from django.conf import settings
from django.db import InternalError, OperationalError, connection
from django.db.utils import InterfaceError
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from redis.backoff import ConstantBackoff, ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

#: A client of redis-py whose replies are text. redis-py types each reply as bytes or text, whatever the client was told.
TextRedis: TypeAlias = Any


class StoreUnavailable(Exception):
    """Redis or PostgreSQL did not answer, or not in time. Nothing can be said of what was asked; ask again."""


@cache
def redis_client() -> TextRedis:
    """The workers' client: waits a little for a Redis that restarts. Replies are text."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        decode_responses=True,
        socket_connect_timeout=1,
        socket_timeout=3,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 3),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )


@cache
def web_thread_redis() -> TextRedis:
    """For the web tier's threads: as impatient as `web_redis`, because a client waits for the answer."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        decode_responses=True,
        socket_connect_timeout=0.5,
        socket_timeout=0.7,
        retry=Retry(ConstantBackoff(0.02), 1, supported_errors=(RedisConnectionError,)),
    )


@cache
def web_redis() -> TextRedis:
    """The web tier's client: one quick second try on a stale connection, else 503 at once. Replies are text."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.REDIS_URL,
        max_connections=50,
        timeout=1,  # s for a free connection: redis-py's other pool refuses the 101st request at once
        decode_responses=True,
        socket_connect_timeout=0.5,
        socket_timeout=1,
        retry=Retry(ConstantBackoff(0.02), 1, supported_errors=(RedisConnectionError,)),
    )
    return redis.asyncio.Redis(connection_pool=pool)


#: Replies by which Redis says "not now" rather than "you are wrong".
_NOT_NOW = ("OOM", "LOADING", "MISCONF", "READONLY", "BUSY", "MASTERDOWN", "NOREPLICAS", "EXECABORT")


def redis_is_away(error: RedisError) -> bool:
    """Whether an error is the store's state, not the request's fault."""
    if isinstance(error, ResponseError):
        return str(error).startswith(_NOT_NOW) or "OOM command not allowed" in str(error)
    return True


@contextmanager
def store_faults() -> Iterator[None]:
    """Turn what the drivers raise for an absent, slow or refusing server into `StoreUnavailable`."""
    try:
        yield
    except RedisError as error:
        if not redis_is_away(error):
            raise
        raise StoreUnavailable(f"Redis: {error}") from error
    except (OperationalError, InterfaceError, InternalError) as error:
        # The connection may be half dead; a fresh one is opened at the next query.
        connection.close()
        raise StoreUnavailable(f"PostgreSQL: {error}") from error


@cache
def sql(name: str) -> str:
    """The statement in `shop/sql/<name>.sql`, without its comments."""
    lines = (files("shop") / "sql" / f"{name}.sql").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))


def rows(name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """Run the statement `name` on Django's connection. Alone it is its own transaction."""
    with connection.cursor() as cursor:
        cursor.execute(sql(name), parameters)
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


class WebDatabase:
    """The web tier's few connections to PostgreSQL, which may be away without stopping the intake of orders."""

    #: How long a request waits for PostgreSQL, and for how long the next ones then do without it.
    PATIENCE_S = 0.8
    PAUSE_S = 1.0

    def __init__(self) -> None:
        self._pool: AsyncConnectionPool | None = None
        self._away_until = 0.0

    async def _opened(self) -> AsyncConnectionPool:
        if self._pool is None:
            connect = {**connection.get_connection_params(), "autocommit": True}
            for ours in ("cursor_factory", "context", "server_side_binding"):
                connect.pop(ours, None)
            self._pool = AsyncConnectionPool(
                kwargs=connect,
                min_size=0,
                max_size=4,
                open=False,
                timeout=self.PATIENCE_S,
                reconnect_timeout=1,
            )
            await self._pool.open(wait=False)
        return self._pool

    async def rows(self, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Run the statement `name`. Raises `StoreUnavailable` when PostgreSQL is away, at once if it just was."""
        if monotonic() < self._away_until:
            raise StoreUnavailable("PostgreSQL: away a moment ago")
        pool = await self._opened()
        for stale_connections in (3, 2, 1, 0):
            try:
                async with asyncio.timeout(self.PATIENCE_S), pool.connection() as opened:
                    cursor = await opened.execute(sql(name), parameters)
                    return await cursor.fetchall()
            except (psycopg.OperationalError, psycopg.InternalError) as error:
                # After a restart of PostgreSQL each idle connection fails once.
                if not stale_connections or isinstance(error, PoolTimeout):
                    raise self._away(error) from error
            except TimeoutError as error:
                raise self._away(error) from error
        raise AssertionError("the loop returns or raises")

    def _away(self, error: Exception) -> StoreUnavailable:
        self._away_until = monotonic() + self.PAUSE_S
        return StoreUnavailable(f"PostgreSQL: {error}")

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.close()
            self._pool = None


web_database = WebDatabase()
