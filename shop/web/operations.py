"""Whether the system is alive and ready."""

import msgspec
from redis.exceptions import ResponseError

from shop import keys
from shop.stores import (
    BrokenKey,
    StoreUnavailable,
    is_of_a_broken_key,
    store_faults,
    web_database,
    web_redis,
)
from shop.web.http import Answer, Request
from shop.web.problems import Kind, Problem, require_method
from shop.web.schemas import Health
from workers import heartbeat


def _ok() -> Answer:
    return Answer(msgspec.json.encode(Health()))


async def healthz(request: Request) -> Answer:
    """`GET /healthz`: this process answers."""
    require_method(request.method, "GET", "HEAD")
    return _ok()


async def readyz(request: Request) -> Answer:
    """`GET /readyz`: Redis, PostgreSQL and a worker that can take orders are there; 503 names what is not."""
    require_method(request.method, "GET", "HEAD")
    missing, unknown = await _missing()
    if missing or unknown:
        words = [
            f"{word}: {', '.join(names)}."
            for word, names in (("Missing", missing), ("Unknown", unknown))
            if names
        ]
        raise Problem(kind=Kind.UNAVAILABLE, detail=" ".join(words))
    return _ok()


async def _missing() -> tuple[list[str], list[str]]:
    """What is not there, and of what that can't be said."""
    missing: list[str] = []
    unknown: list[str] = []
    try:
        with store_faults():
            await web_redis().llen(keys.ORDER_QUEUE)
            has_worker = await _has_worker()
            if not has_worker:
                (unknown if has_worker is None else missing).append("worker")
    except BrokenKey:
        missing.append("Redis")
    except StoreUnavailable:
        missing += ["Redis", "worker"]
    try:
        ((is_read_only,),) = await web_database.rows("is_read_only")
        if is_read_only:
            missing.append("PostgreSQL")
    except StoreUnavailable:
        missing.append("PostgreSQL")
    return missing, unknown


async def _has_worker() -> bool | None:
    """Whether a worker can take orders: its heartbeat has not expired. None where the key of their names is broken.

    Asked for by name: a search of all keys would take Redis seconds.
    """
    try:
        names = await web_redis().zrange(heartbeat.SEEN, 0, -1)
    except ResponseError as refusal:
        if not is_of_a_broken_key(refusal):
            raise
        return None
    pipe = web_redis().pipeline(transaction=False)
    for name in names:
        pipe.pttl(heartbeat.key(name))
    return any(left_ms > 0 for left_ms in await pipe.execute())
