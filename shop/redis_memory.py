"""How full the memory of Redis is, and when that stops the intake of orders.

A Redis at `maxmemory` refuses what needs memory. New orders stop earlier, at a watermark. The room above it is for all else:
the ends of orders, cancellations, heartbeats, sessions (Note [Memory of Redis] in ARCHITECTURE.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import structlog
from django.conf import settings
from redis.exceptions import ResponseError

from shop.stores import RedisLine, TextRedis, store_faults

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A look at the memory of Redis.

    `used_bytes`: what counts against its limit. `limit_bytes`: `maxmemory`, or where that is 0 the memory of its machine;
    None where Redis reports neither.
    """

    used_bytes: int
    limit_bytes: int | None

    @property
    def watermark_bytes(self) -> int | None:
        """From here on new orders are refused; None where nothing refuses them."""
        return None if self.limit_bytes is None else self.limit_bytes * settings.REDIS_MEMORY_PERCENT // 100

    @property
    def is_short(self) -> bool:
        """Whether new orders are refused."""
        return self.watermark_bytes is not None and self.used_bytes >= self.watermark_bytes


def _memory(reported: Mapping[str, Any]) -> Memory:
    """What `INFO memory` reports. Buffers of replicas and of the append-only file do not count against `maxmemory`."""
    used, uncounted, limit, machine = (
        int(reported.get(name, 0))
        for name in ("used_memory", "mem_not_counted_for_evict", "maxmemory", "total_system_memory")
    )
    return Memory(used_bytes=used - uncounted, limit_bytes=limit or machine or None)


def look(client: TextRedis) -> Memory | None:
    """Look at Redis's memory; None where Redis allows no `INFO`. Raises `StoreUnavailable`."""
    with store_faults():
        try:
            return _memory(client.info("memory"))
        except ResponseError:
            return None


class Watermark:
    """What a web process knows of Redis's memory: it looks once a second, and each time while memory is short.

    So intake resumes with the first order after memory is free again.
    """

    FRESH_S: Final = 1.0

    def __init__(self) -> None:
        self._is_reached = False
        self._fresh_until = 0.0

    async def is_reached(self, line: RedisLine) -> bool:
        """Whether new orders are refused. Raises redis-py's errors."""
        if not self._is_reached and monotonic() < self._fresh_until:
            return False
        try:
            memory = _memory(_fields(await line.info("memory")))
            is_short = memory.is_short
        except ResponseError:  # Redis allows no INFO
            is_short = False
        if is_short and not self._is_reached:
            log.error("Redis's memory is nearly full: new orders are refused", used_bytes=memory.used_bytes)
        self._is_reached, self._fresh_until = is_short, monotonic() + self.FRESH_S
        return is_short


def _fields(text: str) -> dict[str, str]:
    """What `INFO` says, by name."""
    return dict(line.split(":", 1) for line in text.split() if ":" in line)
