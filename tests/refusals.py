"""A Redis that is there and takes no orders for a while, each time for another reason."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

import redis

from tests.builders import wait_until

Refusal = Callable[["redis.Redis"], AbstractContextManager[None]]


@contextmanager
def full(client: "redis.Redis") -> Iterator[None]:
    """-OOM to every write."""
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


@contextmanager
def read_only(client: "redis.Redis") -> Iterator[None]:
    """-READONLY to every write, as a primary that was made a replica says."""
    client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@contextmanager
def without_disk(client: "redis.Redis") -> Iterator[None]:
    """-MISCONF to every write, and to PING: the last snapshot could not be saved."""
    (Path(client.config_get("dir")["dir"]) / "in the way").mkdir(exist_ok=True)
    (Path(client.config_get("dir")["dir"]) / "in the way" / "file").touch()
    before = client.config_get("dbfilename")["dbfilename"]
    client.config_set("save", "3600 1")
    client.config_set("dbfilename", "in the way")
    client.bgsave()
    wait_until(
        lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", what="a save that fails"
    )
    try:
        yield
    finally:
        client.config_set("dbfilename", before)
        client.config_set("save", "")
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", what="a save")


@contextmanager
def busy(client: "redis.Redis") -> Iterator[None]:
    """-BUSY to everything: a script of somebody else does not end."""
    before = client.config_get("lua-time-limit")["lua-time-limit"]
    client.config_set("lua-time-limit", 10)
    somebody = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=60, retry=None)

    def run() -> None:
        with suppress(redis.RedisError):
            somebody.eval("while true do end", 0)

    endless = threading.Thread(target=run)
    endless.start()
    wait_until(lambda: _is_busy(client), what="a script that takes too long")
    try:
        yield
    finally:
        client.execute_command("SCRIPT", "KILL")
        endless.join()
        client.config_set("lua-time-limit", before)
        somebody.close()


def _is_busy(client: "redis.Redis") -> bool:
    try:
        client.ping()
    except redis.ResponseError:
        return True
    return False


REFUSALS: Final[list[Refusal]] = [full, read_only, without_disk, busy]
