"""Whether the system is alive and ready."""

import msgspec

from shop import keys
from shop.stores import BrokenKey, StoreUnavailable, store_faults, web_database, web_redis
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
    """`GET /readyz`: Redis, PostgreSQL and a worker are there; 503 names what is not."""
    require_method(request.method, "GET", "HEAD")
    missing = await _missing()
    if missing:
        raise Problem(kind=Kind.UNAVAILABLE, detail=f"Missing: {', '.join(missing)}.")
    return _ok()


async def _missing() -> list[str]:
    missing = []
    try:
        with store_faults():
            if not await _has_worker():
                missing.append("worker heartbeat")
            await web_redis().llen(keys.ORDER_QUEUE)
    except BrokenKey:
        missing.append("Redis")
    except StoreUnavailable:
        missing += ["Redis", "worker heartbeat"]
    try:
        await web_database.rows("count_products")
    except StoreUnavailable:
        missing.append("PostgreSQL")
    return missing


async def _has_worker() -> bool:
    """Whether a worker's heartbeat has not expired. Asked for by name: a search of all keys would take Redis seconds."""
    names = await web_redis().zrange(heartbeat.SEEN, 0, -1)
    return bool(names) and bool(await web_redis().exists(*map(heartbeat.key, names)))
