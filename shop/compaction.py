"""Redis rewrites its append-only file when orders are few, not when they are many.

A rewrite takes half a core and more for seconds. Left to Redis it comes when the file has grown, which is in the middle of
a sale: at 70 % of what two cores can do, results then came after 1.4 to 2.8 s (99th percentile) instead of 0.3, and some
orders heard 503. So the file may grow far before Redis begins by itself (`auto-aof-rewrite-min-size`), and is rewritten
here before that.
"""

from typing import Final

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
        file = client.info("persistence")
        read_bytes_per_s = float(client.info("stats")["instantaneous_input_kbps"]) * 1024
        if not _has_doubled(file) or not _is_good(file["aof_current_size"], read_bytes_per_s):
            return False
        client.bgrewriteaof()
    except redis.RedisError as refusal:
        log.info("the append-only file was not rewritten", reason=str(refusal))
        return False
    return True


def _has_doubled(file: dict[str, int]) -> bool:
    if not file.get("aof_enabled") or file.get("aof_rewrite_in_progress"):
        return False
    return file["aof_current_size"] >= 2 * file["aof_base_size"]


def _is_good(size: int, read_bytes_per_s: float) -> bool:
    return any(size >= at_least and read_bytes_per_s <= at_most for at_least, at_most in MOMENTS)
