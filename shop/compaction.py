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

#: What Redis reads per second in a quiet moment, at most: some 300 orders.
QUIET_BYTES_PER_S: Final = 1_000_000
#: A file as small as this is read in half a second at a start.
WORTH_IT_BYTES: Final = 64 * 2**20


def compact_when_quiet(client: TextRedis) -> bool:
    """Have Redis rewrite its append-only file if that has doubled and the moment is quiet; whether it has begun.

    A Redis that keeps no such file, is away, or lets nobody ask for it, is left alone.
    """
    try:
        file = client.info("persistence")
        read_bytes_per_s = float(client.info("stats")["instantaneous_input_kbps"]) * 1024
        if not _is_worth_it(file) or read_bytes_per_s > QUIET_BYTES_PER_S:
            return False
        client.bgrewriteaof()
    except redis.RedisError as refusal:
        log.info("the append-only file was not rewritten", reason=str(refusal))
        return False
    return True


def _is_worth_it(file: dict[str, int]) -> bool:
    if not file.get("aof_enabled") or file.get("aof_rewrite_in_progress"):
        return False
    return file["aof_current_size"] >= max(WORTH_IT_BYTES, 2 * file["aof_base_size"])
