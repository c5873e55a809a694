"""Connections to Redis and PostgreSQL, and the one error that means: a store is away, try again later."""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache, lru_cache
from importlib.resources import files
from time import monotonic
from typing import Any, TypeAlias, cast

import psycopg
import redis
import redis.asyncio
from django.conf import settings
from django.db import InternalError, OperationalError, ProgrammingError, connection
from django.db.utils import InterfaceError
from hiredis import pack_command
from psycopg.errors import InsufficientPrivilege, UndefinedColumn, UndefinedFunction, UndefinedTable
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff, ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from shop import keys

#: A client of redis-py whose replies are text. redis-py types each reply as bytes or text, whatever the client was told.
TextRedis: TypeAlias = Any


class StoreUnavailable(Exception):
    """Redis or PostgreSQL did not answer, or not in time. Nothing can be said of what was asked; ask again."""


class BrokenKey(StoreUnavailable):
    """Somebody has put something else under a key of ours. Ask again when the key is mended, or deleted."""

    @classmethod
    def of(cls, name: str) -> "BrokenKey":
        """Of this key."""
        return cls(f"Redis: key `{name}` is not what it must be: mend or delete it")


class RowHeld(StoreUnavailable):
    """Another transaction holds a row of PostgreSQL. Nothing was written; ask again when it has ended."""


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


class _PlainSpoken:
    """Lets redis-py's asynchronous connections say of a lost connection that it is lost, whatever the event loop is.

    uvloop calls writing to one a `RuntimeError`, which redis-py passes on instead of connecting again.
    """

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send a command. Raises redis-py's errors."""
        try:
            await cast(Any, super()).send_packed_command(command, check_health)
        except RuntimeError as closed:
            raise RedisConnectionError(str(closed)) from closed


def plain_spoken(pool: Any) -> Any:
    """Let the connections of a pool that has none yet say of a lost connection that it is lost."""
    kind = pool.connection_class
    pool.connection_class = type(kind.__name__, (_PlainSpoken, kind), {})
    return pool


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
        retry=AsyncRetry(ConstantBackoff(0.02), 1, supported_errors=(RedisConnectionError,)),
    )
    return redis.asyncio.Redis.from_pool(plain_spoken(pool))


class RedisLine:
    """A connection to Redis for scripts that are called one at a time (`shop.round_trips`).

    It passes by redis-py's client, pool and Python packing, which cost twice as much as all the rest of a call; connecting,
    credentials, TLS and time-outs stay redis-py's.
    """

    def __init__(self) -> None:
        self._connection: Any = None

    async def evalsha(self, sha: str, keys: int, *arguments: str | bytes | int) -> Any:
        """Run a script that Redis knows. Raises redis-py's errors."""
        return await self._call("EVALSHA", sha, keys, *arguments)

    async def script_load(self, text: str) -> Any:
        """Tell Redis a script; its SHA-1."""
        return await self._call("SCRIPT", "LOAD", text)

    async def info(self, section: str) -> str:
        """What Redis says of itself. Raises redis-py's errors."""
        return str(await self._call("INFO", section))

    async def _call(self, *command: str | bytes | int) -> Any:
        if self._connection is None:
            self._connection = web_redis().connection_pool.make_connection()
        packed = [pack_command(cast(Any, command))]
        try:
            return await self._answered(packed)
        except RedisConnectionError:
            # Redis was started again since the last call: once more, on a new connection.
            return await self._answered(packed)

    async def _answered(self, packed: list[bytes]) -> Any:
        await self._connection.send_packed_command(packed)
        return await self._connection.read_response()

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.disconnect()
            self._connection = None


#: Replies by which Redis says "not now" rather than "you are wrong". Redis up to 6.2 puts a script's line before what a
#: command in it was answered, and redis-py a pipeline's command before what that was answered.
_NOT_NOW = re.compile(
    r"(?:^|: -|caused error: )(?:OOM|LOADING|MISCONF|READONLY|BUSY|MASTERDOWN|NOREPLICAS|EXECABORT|NOPERM)\b"
    # Of a command in a script, NOPERM in the words of Redis up to 6.2, then of 7 and later.
    r"|The user executing the script can't|ACL failure in script"
)
#: What PostgreSQL refuses for as long as somebody has not granted a right or migrated: no fault of the order.
_NOT_SET_UP = (InsufficientPrivilege, UndefinedTable, UndefinedColumn, UndefinedFunction)
#: The reply to a command that is not for what the key holds.
_WRONG_TYPE = re.compile(r"(?:^|@user_script:\d+: |caused error: )-?WRONGTYPE\b")


def redis_is_away(error: RedisError) -> bool:
    """Whether an error is the store's state, not the request's fault."""
    if isinstance(error, NoScriptError | NoPermissionError):
        # It was told the script, and forgot it before it was to run it: SCRIPT FLUSH, or a new process. Or its ACL refuses,
        # until somebody corrects that.
        return True
    if isinstance(error, ResponseError):
        # redis-py takes the word off the text of an error that it has a class for.
        return any(map(_NOT_NOW.search, (str(getattr(error, "status_code", "")), str(error))))
    return True


def is_of_a_broken_key(error: object) -> bool:
    """Whether Redis says that a key holds what the command is not for."""
    return isinstance(error, ResponseError) and bool(_WRONG_TYPE.search(str(error)))


def known(replies: Iterable[Any]) -> Iterator[Any]:
    """Replies of a pipeline of housekeeping, None for those of a broken key. Raises the first error of another kind."""
    for reply in replies:
        if isinstance(reply, RedisError) and not is_of_a_broken_key(reply):
            raise reply
        yield None if isinstance(reply, RedisError) else reply


@contextmanager
def store_faults() -> Iterator[None]:
    """Turn what the drivers raise for an absent, slow or refusing server into `StoreUnavailable`."""
    try:
        yield
    except RedisError as error:
        if is_of_a_broken_key(error):
            raise BrokenKey(f"Redis: {_broken_keys(int(monotonic() * 10)) or error}") from error
        if not redis_is_away(error):
            raise
        raise StoreUnavailable(f"Redis: {error}") from error
    except (OperationalError, InterfaceError, InternalError) as error:
        # The connection may be half dead; a fresh one is opened at the next query.
        connection.close()
        raise StoreUnavailable(f"PostgreSQL: {error}") from error
    except ProgrammingError as error:
        if not isinstance(error.__cause__, _NOT_SET_UP):
            raise
        raise StoreUnavailable(f"PostgreSQL: {error}") from error


@lru_cache(maxsize=1)
def _broken_keys(tenth_of_a_second: int) -> str:
    """Which of the keys that all share hold what is not ours, in words; '' where none does, or Redis is away now.

    Redis does not name them, and whoever is to mend them has to know. It answered a moment ago: to ask it costs even an
    event loop little, ten times a second at most.
    """
    specs = [spec for spec in keys.SPECS if "*" not in spec.pattern]
    pipe = web_thread_redis().pipeline(transaction=False)
    for spec in specs:
        pipe.type(spec.pattern)
    try:
        kinds = pipe.execute()
    except RedisError:
        return ""
    return "; ".join(
        f"key `{spec.pattern}` is a {kind} and must be a {spec.type}: mend or delete it"
        for spec, kind in zip(specs, kinds, strict=True)
        if kind not in {spec.type, "none"}
    )


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


def uuid_array(ids: Iterable[str]) -> str:
    """UUIDs as PostgreSQL's text of an array: psycopg takes longer over a list than PostgreSQL over the whole query."""
    return f"{{{','.join(ids)}}}"


class WebDatabase:
    """A connection of the web tier to PostgreSQL, which may be away without stopping the intake of orders.

    Statements run one after the other; whoever has slow ones needs a connection of his own.
    """

    #: How long a request waits for PostgreSQL, and for how long the next ones then do without it.
    PATIENCE_S = 0.8
    PAUSE_S = 1.0
    #: How long a statement waits for those before it. Beyond that more are asked than PostgreSQL can answer.
    LINE_S = 1.0

    def __init__(self, options: str = "") -> None:
        self._options = options
        self._connection: psycopg.AsyncConnection | None = None
        self._turn = asyncio.Lock()
        self._away_until = 0.0

    async def rows(self, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Run the statement `name`. Raises `StoreUnavailable` when PostgreSQL is away, at once if it just was."""
        async with self._its_turn():
            if monotonic() < self._away_until:
                raise StoreUnavailable("PostgreSQL: away a moment ago")
            try:
                return await self._ask(sql(name), parameters)
            except (psycopg.OperationalError, psycopg.InternalError, TimeoutError, *_NOT_SET_UP) as error:
                self._away_until = monotonic() + self.PAUSE_S
                raise StoreUnavailable(f"PostgreSQL: {error}") from error

    @asynccontextmanager
    async def _its_turn(self) -> AsyncIterator[None]:
        # Twice half as long: in a process that was frozen the first time-out comes before the answer that has arrived.
        if not await self._is_in_turn() and not await self._is_in_turn():
            raise StoreUnavailable("PostgreSQL: too many ask at once")
        try:
            yield
        finally:
            self._turn.release()

    async def _is_in_turn(self) -> bool:
        try:
            async with asyncio.timeout(self.LINE_S / 2):
                return await self._turn.acquire()
        except TimeoutError:
            return False

    async def _ask(self, statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        began = monotonic()
        if self._connection is not None:
            try:
                return await self._run(self._connection, statement, parameters)
            except (psycopg.OperationalError, psycopg.InternalError):
                await self.close()
                # After a restart of PostgreSQL the old connection fails once, and at once.
                if monotonic() - began > self.PATIENCE_S:
                    raise
        async with asyncio.timeout(self.PATIENCE_S):
            self._connection = await psycopg.AsyncConnection.connect(**self._parameters())
        return await self._run(self._connection, statement, parameters)

    async def _run(
        self, opened: psycopg.AsyncConnection, statement: str, parameters: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        # Cancelled, psycopg would ask PostgreSQL to stop and wait up to 5 s for that: time ends by hanging up.
        hang_up = asyncio.get_running_loop().call_later(self.PATIENCE_S, _hang_up, opened)
        try:
            cursor = await opened.execute(statement, parameters)
            return await cursor.fetchall()
        finally:
            hang_up.cancel()

    def _parameters(self) -> dict[str, Any]:
        connect = {**connection.get_connection_params(), "autocommit": True}
        for ours in ("cursor_factory", "context", "server_side_binding"):
            connect.pop(ours, None)
        connect["options"] = f"{connect.get('options', '')} {self._options}"
        return connect

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


def _hang_up(opened: psycopg.AsyncConnection) -> None:
    """Make whoever waits for this connection hear that it is gone."""
    with socket.socket(fileno=os.dup(opened.fileno())) as line, suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


web_database = WebDatabase()
#: For what every order needs: nobody's search for products stands before it. All of it is found by primary keys, but
#: PostgreSQL, as long as it has not counted a table that grows, would rather read it whole.
order_database = WebDatabase("-c enable_seqscan=off")
