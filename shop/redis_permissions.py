"""What each process has to be allowed in Redis (ACL), and how it finds out whether it is.

Redis checks a command against the rights of its user when the command is queued in a transaction. So each is queued with a
key of ours, and the transaction is thrown away: nothing is done. What a script calls is checked in the same way when the
script runs, and stands in the same lists. `tests/test_permissions.py` runs each process as a user that has the rights of
these lists and no other.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.exceptions import ExecAbortError, NoPermissionError, ResponseError
from redis.retry import Retry

from shop import keys
from shop.stores import store_faults
from workers import heartbeat
from workers.transport import LEFT_TO, PARKED_FOR, UNREADABLE

#: The rights that docs/go-live.md gives a user.
RIGHTS: Final = "~* &* +@all -@dangerous +info"
#: How long Redis may take to connect, and for each answer, in seconds.
PATIENCE_S: Final = 1.0


class Process(StrEnum):
    """A kind of process, by what it needs of the stores."""

    WEB = "web"
    WORKER = "worker"
    SCHEDULER = "scheduler"


_X: Final = "probe"
_SECOND: Final = keys.figures_of_second(0)
_RANKING: Final = keys.ranking(_X, 0)
_ORDER: Final = keys.order(_X)
_STOCK: Final = keys.stock(_X)

#: Commands with arguments that they could have.
_EVERY: Final = ("PING",)
#: Of `shop/lua`, and of the figures. Both web processes and workers run nearly all of it.
_SHARED: Final = (
    f"EVALSHA sha 2 {keys.SETTLED_CHANNEL} {keys.PARKED_INDEX}",  # scripts are given the channel among their keys
    "SCRIPT LOAD text",
    f"DEL {keys.lock(_X)}",
    f"DEL {_STOCK}",
    f"DEL {keys.movement(_X)}",
    f"DEL {keys.version(_X)}",
    f"EXISTS {keys.pause(_X)}",
    f"EXISTS {keys.last_attempt(_X)}",
    f"EXPIRE {_SECOND} 1",
    f"EXPIRE {_RANKING} 1",
    f"EXPIRE {_ORDER} 1",
    f"GET {keys.lock(_X)}",
    f"HDEL {_ORDER} {_X}",
    f"HEXISTS {_ORDER} {_X}",
    f"HGET {_ORDER} {_X}",
    f"HGETALL {_ORDER}",
    f"HINCRBY {keys.FIGURES} {_X} 1",
    f"HMGET {_ORDER} {_X}",
    f"HSET {_SECOND} {_X} 1",
    f"INCR {keys.EPOCH}",
    f"LLEN {keys.ORDER_QUEUE}",
    f"LPUSH {keys.ORDER_QUEUE} {_X}",
    f"LPUSH {keys.REPLACEMENTS} {_X}",
    f"LRANGE {keys.REPLACEMENTS} 0 0",
    f"LTRIM {keys.REPLACEMENTS} 0 0",
    f"EXPIRE {keys.REPLACEMENTS} 1",
    f"MGET {keys.idempotency(_X, _X)}",
    f"MGET {keys.FOLLOWED}",
    f"MSET {_STOCK} 1",
    f"PTTL {keys.rate(_X)}",
    f"PUBLISH {keys.SETTLED_CHANNEL} {_X}",
    f"RPUSH {keys.ORDER_QUEUE} {_X}",
    f"SET {keys.api_key(_X)} {_X}",
    f"SET {keys.rate(_X)} {_X}",
    f"SET {keys.movement(_X)} {_X}",
    "TIME",
    f"ZADD {keys.OPEN_ORDERS} 1 {_X}",
    f"ZCARD {keys.CANCELLATIONS}",
    f"ZINCRBY {_RANKING} 1 {_X}",
    f"ZREM {keys.CANCELLATIONS} {_X}",
    f"ZSCORE {keys.OPEN_ORDERS} {_X}",
)
#: In the Redis of the orders.
OF_ORDERS: Final = {
    Process.WEB: (
        *_EVERY,
        *_SHARED,
        f"EXISTS {heartbeat.key(_X)}",
        f"GET {keys.LAST_RECONCILE}",
        f"ZRANGE {heartbeat.SEEN} 0 0",
        f"ZRANK {keys.OPEN_ORDERS} {_X}",
        f"ZREVRANGE {_RANKING} 0 0",
        f"SUBSCRIBE {keys.SETTLED_CHANNEL}",
    ),
    Process.WORKER: (
        *_EVERY,
        *_SHARED,
        f"LRANGE {keys.ORDER_QUEUE} 0 0",
        "SCAN 0",
        f"SET {heartbeat.key(_X)} {_X}",
        f"SET {keys.LAST_RECONCILE} {_X}",
        f"SET {keys.FOLLOWED} {_X}",
        f"SET {keys.RECOVERING} {_X}",
        f"DEL {keys.RECOVERING}",
        f"ZRANGE {keys.OPEN_ORDERS} 0 0",
        f"ZRANGEBYSCORE {keys.OPEN_ORDERS} 0 0",
        f"ZREMRANGEBYSCORE {heartbeat.SEEN} 0 0",
    ),
    Process.SCHEDULER: (),
}
_ANNOUNCED: Final = (f"SADD _kombu.binding.{_X} {_X}", f"SADD _kombu.binding_permanent.{_X} {_X}")
#: In the Redis that is the broker, most often the same one.
OF_BROKER: Final = {
    Process.WEB: (
        "HLEN unacked",
        f"HLEN {keys.PARKED}",
        f"ZRANGE {PARKED_FOR}{_X} 0 0",
        f"LINDEX {keys.ORDER_QUEUE} 0",
        f"LLEN {UNREADABLE}",
        f"LLEN {keys.MAINTENANCE_QUEUE}",
    ),
    Process.WORKER: (
        *_EVERY,
        *_ANNOUNCED,
        "EVALSHA sha 0",
        "SCRIPT LOAD text",
        "SCRIPT EXISTS sha",
        "WATCH unacked",
        "UNWATCH",
        f"BLMOVE {keys.ORDER_QUEUE} {keys.ORDER_QUEUE} RIGHT RIGHT 1",
        "DEL unacked_mutex",
        f"DEL {UNREADABLE}",
        f"DEL {_X}.reply.celery.pidbox",
        f"GET {LEFT_TO}{_X}",
        f"HDEL unacked {_X}",
        f"HGET unacked {_X}",
        "HLEN unacked",
        f"HSET unacked {_X} {_X}",
        f"LLEN {keys.MAINTENANCE_QUEUE}",
        f"LPUSH {UNREADABLE} {_X}",
        f"LREM {keys.ORDER_QUEUE} 0 {_X}",
        f"LTRIM {UNREADABLE} 0 0",
        f"TYPE {UNREADABLE}",
        f"RPOP {keys.ORDER_QUEUE}",
        f"RPUSH {keys.ORDER_QUEUE} {_X}",
        "SET unacked_mutex 1",
        f"SREM _kombu.binding.{_X} {_X}",
        "ZADD _kombu.binding_deadlines 1 probe",
        f"ZADD unacked_index 1 {_X}",
        f"EXISTS {keys.PARKED_INDEX}",
        f"DEL {keys.PARKED}",
        f"HDEL {keys.PARKED} {_X}",
        f"HEXISTS {keys.PARKED} {_X}",
        f"HGET {keys.PARKED} {_X}",
        f"HLEN {keys.PARKED}",
        f"HSET {keys.PARKED} {_X} {_X}",
        f"ZADD {keys.PARKED_INDEX} 1 {_X}",
        f"ZADD {PARKED_FOR}{_X} 1 {_X}",
        f"ZCARD {keys.PARKED_INDEX}",
        f"ZCARD {PARKED_FOR}{_X}",
        f"ZRANGE {PARKED_FOR}{_X} 0 0",
        f"ZRANGEBYSCORE {keys.PARKED_INDEX} 0 0",
        f"ZREM {keys.PARKED_INDEX} {_X}",
        f"ZREM {PARKED_FOR}{_X} {_X}",
        f"ZSCORE {keys.UNACKED_INDEX} {_X}",
        "ZCARD unacked_index",
        "ZRANGE unacked_index 0 0",
        "ZRANGEBYSCORE _kombu.binding_deadlines 0 0",
        f"ZREM unacked_index {_X}",
        "PUBLISH /{db}.celeryev/worker.heartbeat probe",
        "PSUBSCRIBE /{db}.celery.pidbox",
        "PUNSUBSCRIBE /{db}.celery.pidbox",
    ),
    Process.SCHEDULER: (
        *_EVERY,
        *_ANNOUNCED,
        f"LLEN {keys.MAINTENANCE_QUEUE}",
        f"LPUSH {keys.MAINTENANCE_QUEUE} {_X}",
    ),
}


def refused(process: Process) -> list[str]:
    """What Redis does not let this process do, in words; empty where it may do all that it has to.

    Of a broker that is not Redis, nothing can be said. Raises `StoreUnavailable`.
    """
    commands_of = {settings.REDIS_URL: OF_ORDERS[process]}
    if settings.CELERY_BROKER_TRANSPORT:
        of_orders = commands_of.get(settings.CELERY_BROKER_URL, ())
        commands_of[settings.CELERY_BROKER_URL] = (*of_orders, *OF_BROKER[process])
    found = []
    for url, commands in commands_of.items():
        if names := list(dict.fromkeys(_refused(url, commands))):
            found.append(
                f"Redis: user `{_user(url)}` may not {_few(names)}: give it `{RIGHTS}` (docs/go-live.md)"
            )
    return found


def _user(url: str) -> str:
    return unquote(urlsplit(url).username or "default")


def _few(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _refused(url: str, commands: Iterable[str]) -> list[str]:
    """Those of the commands that are refused, each with the key or channel that it was tried with."""
    client = redis.Redis.from_url(
        url,
        protocol=2,  # so that each subscription is answered like a command
        decode_responses=True,
        socket_connect_timeout=PATIENCE_S,
        socket_timeout=PATIENCE_S,
        retry=Retry(NoBackoff(), 0),
    )
    with store_faults(), client:
        try:
            connection = client.connection_pool.get_connection()
        except NoPermissionError:
            return ["SELECT"]
        database = connection.db
        tries = [" ".join(command.split()).replace("{db}", str(database)).split() for command in commands]
        return list(_tried(connection, tries))


def _tried(connection: Any, tries: Sequence[Sequence[str]]) -> Iterator[str]:
    # One after the other: what is sent behind a transaction that was refused would be done.
    for opening in (["MULTI"], ["EXEC"], ["MULTI"]):
        if _are_refused(connection, [opening])[0]:
            yield opening[0]
            if opening == ["MULTI"]:
                return
    to_queue = [command for command in tries if not command[0].endswith("SUBSCRIBE")]
    # Who listens to a channel may ask for nothing else.
    to_do = [["DISCARD"], *(command for command in tries if command[0].endswith("SUBSCRIBE"))]
    for command, is_refused in zip(
        [*to_queue, *to_do], _are_refused(connection, [*to_queue, *to_do]), strict=True
    ):
        if is_refused:
            yield " ".join(word for word in command[:2] if word not in {"sha", "text"})


def _are_refused(connection: Any, commands: Sequence[Sequence[str]]) -> list[bool]:
    connection.send_packed_command(connection.pack_commands(commands))
    return [_is_refused(connection) for _ in commands]


def _is_refused(connection: Any) -> bool:
    """Whether Redis answers that this is not allowed, or that it has no such command."""
    try:
        connection.read_response()
    except (NoPermissionError, ExecAbortError):  # so it refuses EXEC itself
        return True
    except ResponseError as error:
        return str(error).startswith("unknown command")
    return False
