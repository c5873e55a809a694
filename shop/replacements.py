"""Processes that were replaced, because they ended or fell silent (`workers.sign_of_life`): counted, and kept for a day.

Their parents know no store. The process that takes the place of another one reports it.
"""

import threading
import time
from collections.abc import Sequence
from typing import Final

import msgspec
import redis
import structlog
from django.conf import settings

from shop import keys
from shop.stores import TextRedis, store_faults
from workers import sign_of_life

log = structlog.get_logger()

#: Before part and cause: field of the figures.
REPLACED: Final = "replaced:"
#: The newest are kept.
KEPT: Final = 20
TRY_AGAIN_S: Final = 1.0

_json = msgspec.json.Encoder()


class Replacement(msgspec.Struct, frozen=True, kw_only=True):
    """A process that was replaced. `cause`: `silent` or `ended`; `at_ms`: when another one took its place, Unix time."""

    part: str
    cause: str
    at_ms: int


_decoder = msgspec.json.Decoder(Replacement)


def report() -> None:
    """Report the process in whose place this one is, if any. It waits for a Redis that is away; nothing waits for it."""
    if found := sign_of_life.replaces():
        replacement = Replacement(part=found.part, cause=found.cause, at_ms=int(time.time() * 1000))
        threading.Thread(target=_report, args=(replacement,), name="replacement", daemon=True).start()


def _report(replacement: Replacement) -> None:
    while True:
        try:
            with redis.Redis.from_url(
                settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1
            ) as client:
                record(client, replacement)
            return
        except (redis.ConnectionError, redis.TimeoutError):
            time.sleep(TRY_AGAIN_S)
        except redis.RedisError as error:
            log.warning("a replaced process was not counted", reason=str(error))
            return


def record(client: "redis.Redis", replacement: Replacement) -> None:
    """Count it, and keep it for the board. Raises redis.RedisError."""
    pipe = client.pipeline(transaction=True)
    pipe.hincrby(keys.FIGURES, f"{REPLACED}{replacement.part}:{replacement.cause}", 1)
    pipe.lpush(keys.REPLACEMENTS, _json.encode(replacement))
    pipe.ltrim(keys.REPLACEMENTS, 0, KEPT - 1)
    pipe.expire(keys.REPLACEMENTS, keys.DAY_S)
    pipe.execute()


def recent(client: TextRedis) -> Sequence[Replacement]:
    """The newest of the last day, newest first; none where somebody has broken the key. Raises `StoreUnavailable`."""
    with store_faults():
        try:
            return [_decoder.decode(each) for each in client.lrange(keys.REPLACEMENTS, 0, KEPT - 1)]
        except (redis.ResponseError, msgspec.DecodeError):
            return []
