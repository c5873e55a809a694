"""Redis that forgets, refuses, pauses or was meddled with."""

import json
import os
import signal
import time
from collections.abc import Callable
from random import Random
from typing import Any, Final

from shop import keys
from tests.chaos.clients import HOT, PLENTY, SCARCE
from tests.chaos.fault import Fault, NotInjected
from tests.chaos.losses import Loss, of_tail
from tests.chaos.process_faults import pool_processes, revive_stores, still
from tests.chaos.site import Site
from workers.proc import is_running

UNACKED: Final = ("unacked", "unacked_index")
#: Long enough for some messages to gather where they are to be found.
GATHER_S: Final = 0.4
#: Looks for something that is there for milliseconds only.
LOOKS: Final = 300

HALF_A_COMMAND: Final = b"*3\r\n$3\r\nSET\r\n$9\r\nestoq"

GARBAGE: Final = (
    b"",
    b"no json",
    b"\xff\xfe\x00",
    b"{}",
    b"[1, 2]",
    b'{"body": 1, "headers": {}, "properties": {}}',
    b'{"body": "W10=", "content-encoding": "utf-8", "content-type": "application/json",'
    b' "headers": {"task": "no.such.task", "id": "x"}, "properties": {"delivery_tag": "garbage",'
    b' "delivery_info": {"exchange": "orders", "routing_key": "orders"}, "body_encoding": "base64"}}',
)


def _command(*words: str) -> Callable[[Site, Random], None]:
    def inject(site: Site, _: Random) -> None:
        site.redis.execute_command(*words)

    return inject


def _pause(site: Site, random: Random) -> None:
    site.redis.execute_command("CLIENT", "PAUSE", random.randint(300, 3000))


def _fill(site: Site, _: Random) -> None:
    site.redis.config_set("maxmemory", "1mb")


def _empty(site: Site, _: object) -> None:
    site.redis.config_set("maxmemory", 0)


def delete_queue(site: Site, _: Random) -> None:
    """While no worker fetches, so that there are messages to be lost."""
    with still(site.main_pids("worker"), GATHER_S):
        waiting, _deleted = site.redis.pipeline().llen(keys.ORDER_QUEUE).delete(keys.ORDER_QUEUE).execute()
    if not waiting:
        raise NotInjected("nothing was on the queue")


def _delete_unacked(site: Site, _: Random) -> None:
    with still(pool_processes(site), GATHER_S):
        fetched, _deleted = site.redis.pipeline().hlen(UNACKED[0]).delete(*UNACKED).execute()
    if not fetched:
        raise NotInjected("nothing was unacknowledged")


def _double_messages(site: Site, _: Random) -> None:
    """Once more whatever waits or is being worked on, as a broker that restores too early does."""
    with still(pool_processes(site), GATHER_S):
        fetched = [json.dumps(json.loads(packed)[0]) for packed in site.redis.hvals(UNACKED[0])]
        copies = fetched + site.redis.lrange(keys.ORDER_QUEUE, 0, -1)
        if not copies:
            raise NotInjected("no message was there")
        site.redis.lpush(keys.ORDER_QUEUE, *copies)


def _queue_garbage(site: Site, random: Random) -> None:
    site.redis.lpush(keys.ORDER_QUEUE, *random.sample(GARBAGE, 3))


def _some_stock(random: Random) -> list[str]:
    return [*HOT, *random.sample(SCARCE, 4), *random.sample(PLENTY, 20)]


def _delete_stock(site: Site, random: Random) -> None:
    names = [key for sku in _some_stock(random) for key in (keys.stock(sku), keys.version(sku))]
    if random.random() < 0.5:
        names = names[::2]
    if not site.redis.delete(*names):
        raise NotInjected("there was no counter")


def _raise_stock(site: Site, random: Random) -> None:
    """Units that do not exist, of a SKU that runs out: PostgreSQL confirms no order by them."""
    sku = random.choice(HOT + SCARCE)
    if not site.redis.exists(keys.stock(sku)):
        raise NotInjected("there was no counter")
    site.raised_skus.add(sku)
    site.redis.incrby(keys.stock(sku), random.randint(1, 20))


def _lower_stock(site: Site, random: Random) -> str:
    """Units less than there are: no order is refused by it, and the next one of the SKU writes it over."""
    sku = random.choice(HOT + SCARCE)
    free = int(site.redis.get(keys.stock(sku)) or 0)
    if free < 1:
        raise NotInjected("nothing was free")
    site.redis.decrby(keys.stock(sku), random.randint(1, free))
    return sku


def _reload(site: Site, sku: str) -> None:
    """What the operator does."""
    site.reload([sku])


def _break_stock(site: Site, random: Random) -> None:
    for sku in random.sample(PLENTY, 3):
        site.redis.set(keys.stock(sku), random.choice(("many", "", "1e3", "12.5")))


def _empty_redis(site: Site, _: Random) -> None:
    """Everything goes at once, and with it, in the same moment, what to expect of it."""
    began = time.time()
    transaction = site.redis.pipeline(transaction=True)
    transaction.zrange(keys.OPEN_ORDERS, 0, -1).zrange(keys.CANCELLATIONS, 0, -1).flushall()
    orders, wishes, _done = transaction.execute()
    site.losses.append(
        Loss(began=began, ended=time.time(), orders=frozenset(orders), wishes=frozenset(wishes))
    )


def _cut_power(site: Site, random: Random) -> list[int]:
    """Redis dies in the middle of a write; with `everysec`, what it had written in the last second was not on disk."""
    file = site.redis_server.folder / "appendonly.aof"
    pid, began, synced = site.redis_server.pid, time.time(), file.stat().st_size
    if site.append_fsync == "everysec":
        time.sleep(random.uniform(0.1, 1.0))
    os.kill(pid, signal.SIGKILL)
    while is_running(pid):
        time.sleep(0.005)
    if site.append_fsync == "everysec":
        with file.open("r+b") as written:
            written.seek(synced)
            site.losses.append(of_tail(written.read(), began, time.time()))
            written.truncate(synced)
    with file.open("ab") as written:
        written.write(HALF_A_COMMAND)
    return [pid]


def _delete_locks(site: Site, _: Random) -> None:
    names = [keys.lock(sku) for sku in HOT + SCARCE + PLENTY]
    if not any(site.redis.delete(*names) for _ in range(LOOKS)):
        raise NotInjected("no lock was held")


def _forget_keys(site: Site, _: Random) -> None:
    _, found = site.redis.scan(match=keys.idempotency("*", "*"), count=500)
    if not found or not site.redis.delete(*found):
        raise NotInjected("no key was found")


def _meddled(name: str, description: str, inject: Callable[[Site, Random], Any]) -> Fault:
    return Fault(name=name, description=description, answers=True, inject=inject)


FAULTS: Final = (
    _meddled("scripts-flushed", "SCRIPT FLUSH", _command("SCRIPT", "FLUSH")),
    _meddled(
        "clients-killed",
        "CLIENT KILL TYPE normal",
        _command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
    ),
    _meddled("subscribers-killed", "CLIENT KILL TYPE pubsub", _command("CLIENT", "KILL", "TYPE", "pubsub")),
    Fault(name="redis-paused", description="CLIENT PAUSE for 0.3 to 3 s", answers=False, inject=_pause),
    Fault(
        name="redis-full",
        description="Redis at its memory limit",
        answers=False,
        inject=_fill,
        heal=_empty,
        hold_s=(0.3, 2.0),
    ),
    _meddled("queue-deleted", "the broker's list of orders deleted", delete_queue),
    _meddled("unacked-deleted", "messages fetched and not acknowledged deleted, index too", _delete_unacked),
    _meddled("messages-doubled", "each message waiting or in hand put on the queue again", _double_messages),
    _meddled("garbage-queued", "what is no message, or of no task of ours, on the queue", _queue_garbage),
    _meddled("stock-deleted", "`estoque:` keys deleted, with or without their `version:`", _delete_stock),
    _meddled("stock-raised", "an `estoque:` key edited upward", _raise_stock),
    Fault(
        name="stock-lowered",
        description="an `estoque:` key edited downward; the operator loads it again",
        answers=True,
        inject=_lower_stock,
        heal=_reload,
        hold_s=(0.2, 0.5),
        is_rare=True,
    ),
    _meddled("stock-broken", "`estoque:` keys that are no numbers", _break_stock),
    Fault(name="redis-emptied", description="FLUSHALL", answers=False, inject=_empty_redis),
    Fault(
        name="redis-power-cut",
        description="Redis dies in the middle of a write, what was not synced is gone",
        answers=False,
        inject=_cut_power,
        heal=revive_stores,
    ),
    _meddled("locks-deleted", "lock keys deleted while they are held", _delete_locks),
    _meddled("keys-forgotten", "idempotency keys deleted", _forget_keys),
)
