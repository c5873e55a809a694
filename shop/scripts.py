"""The Lua scripts (`shop/lua/`), each a verb; every one is atomic and safe to run twice.

All keys are computed from the names in `shop.keys`; the scripts assume one Redis, not a cluster.
"""

from functools import cache
from importlib.resources import files
from typing import Any, cast

import msgspec
import redis
import redis.asyncio
from redis.commands.core import AsyncScript, Script

#: In the header of a script that answers for many orders: its reply is one JSON text. Redis up to 6.2 gives each table of
#: a reply to the kernel by itself: a hundred little writes, and a reader woken by each.
_IN_JSON = "-- REPLY JSON"


@cache
def text(name: str) -> str:
    """The source of `shop/lua/<name>.lua`."""
    return (files("shop") / "lua" / f"{name}.lua").read_text()


@cache
def _is_in_json(name: str) -> bool:
    return _IN_JSON in text(name)


@cache
def _sync(name: str) -> Script:
    return Script(redis.Redis(), text(name))


@cache
def _asynchronous(name: str) -> AsyncScript:
    return AsyncScript(redis.asyncio.Redis(), text(name))


def run(client: Any, name: str, keys: list[str], args: list[Any]) -> Any:
    """Run one script; sends its text only when the server does not have it."""
    return _read(name, _sync(name)(keys=keys, args=args, client=client), _anything)


async def run_async(
    client: Any,
    name: str,
    keys: list[str],
    args: list[Any],
    decoder: "msgspec.json.Decoder[Any] | None" = None,
) -> Any:
    """`run`, for the web tier. `decoder`: of a reply in JSON, where it has a type."""
    reply = await cast(Any, _asynchronous(name))(keys=keys, args=args, client=client)
    return _read(name, reply, decoder or _anything)


_anything: "msgspec.json.Decoder[Any]" = msgspec.json.Decoder()


def _read(name: str, reply: Any, decoder: "msgspec.json.Decoder[Any]") -> Any:
    return decoder.decode(reply) if _is_in_json(name) else reply
