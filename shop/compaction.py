"""Redis rewrites its append-only file when orders are few, not when they are many.

A rewrite takes half a core and more for seconds. Left to Redis it comes when the file has grown, which is in the middle of
a sale: at 70 % of what two cores can do, results then came after 1.4 to 2.8 s (99th percentile) instead of 0.3, and some
orders heard 503. So the file may grow far before Redis begins by itself (`auto-aof-rewrite-min-size`), and is rewritten
here before that.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import redis
import structlog

from shop.stores import TextRedis

log = structlog.get_logger()

MIB: Final = 2**20
#: From which size on a file is rewritten, and what Redis may read per second then, at most: some 30 orders, then some 300.
#: A file of 64 MiB is read in half a second at a start, one of 512 MiB in five.
MOMENTS: Final = ((64 * MIB, 100_000), (512 * MIB, 1_000_000))


def compact_when_quiet(client: TextRedis) -> bool:
    """Have Redis rewrite its append-only file if that has doubled and the moment is good; whether it has begun.

    The larger the file, the less quiet a moment has to be. A Redis that keeps no such file, is away, or lets nobody ask for
    it, is left alone.
    """
    try:
        at_most = _good_moment(client.info("persistence"))
        if at_most is None or float(client.info("stats")["instantaneous_input_kbps"]) * 1024 > at_most:
            return False
        client.bgrewriteaof()
    except redis.RedisError as refusal:
        _tell_once(str(refusal))
        return False
    return True


@lru_cache(maxsize=16)
def _tell_once(reason: str) -> None:
    """Each sweep would hear the same of a Redis that does not let us ask."""
    log.info("the append-only file was not rewritten", reason=reason)


def is_due(client: TextRedis) -> bool:
    """Whether the file is being rewritten, or will be as soon as nobody asks Redis for anything. Raises `RedisError`."""
    told = client.info("persistence")
    return bool(told["aof_rewrite_in_progress"] or _good_moment(told) is not None)


def _good_moment(told: Mapping[str, Any]) -> int | None:
    """Bytes per second that Redis may read in a moment that is good for this file; None where the file is good as it is."""
    if not told.get("aof_enabled") or told["aof_rewrite_in_progress"]:
        return None
    if told["aof_last_bgrewrite_status"] != "ok":
        return None  # a full disk, or too little memory: to ask every other second would not help, and Redis tries, too
    size = told["aof_current_size"]
    if size < 2 * told["aof_base_size"]:
        return None
    return max((at_most for at_least, at_most in MOMENTS if size >= at_least), default=None)
