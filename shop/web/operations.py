"""Whether the system is alive and ready."""

import msgspec

from shop import keys
from shop.stores import BrokenKey, StoreUnavailable, store_faults, web_database, web_redis
from shop.web.http import Answer, Request
from shop.web.problems import Kind, Problem, require_method
from shop.web.schemas import Health

#: Written by worker processes about themselves (`workers.heartbeat`).
_WORKERS = "heartbeat:worker:*"


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
            if not [name async for name in web_redis().scan_iter(match=_WORKERS, count=1000)]:
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
