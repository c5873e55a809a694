"""The Lua scripts (`shop/lua/`), each a verb; every one is atomic and safe to run twice.

All keys are computed from the names in `shop.keys`; the scripts assume one Redis, not a cluster.
"""

from functools import cache
from importlib.resources import files
from typing import Any, cast

import redis
import redis.asyncio
from redis.commands.core import AsyncScript, Script


@cache
def text(name: str) -> str:
    """The source of `shop/lua/<name>.lua`."""
    return (files("shop") / "lua" / f"{name}.lua").read_text()


@cache
def _sync(name: str) -> Script:
    return Script(redis.Redis(), text(name))


@cache
def _asynchronous(name: str) -> AsyncScript:
    return AsyncScript(redis.asyncio.Redis(), text(name))


def run(client: Any, name: str, keys: list[str], args: list[Any]) -> Any:
    """Run one script; sends its text only when the server does not have it."""
    return _sync(name)(keys=keys, args=args, client=client)


async def run_async(client: Any, name: str, keys: list[str], args: list[Any]) -> Any:
    """`run`, for the web tier."""
    return await cast(Any, _asynchronous(name))(keys=keys, args=args, client=client)
