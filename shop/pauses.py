"""Pausing: intake takes no new order, or fulfilment begins none, until somebody says otherwise.

The state is a key in Redis that the scripts which accept and reserve look at in the call that is made anyway, so a pause
costs nothing while there is none, holds for every process at once, and survives restarts. Each change is a row, too.
"""

import time
from enum import StrEnum

import msgspec
import structlog

from shop import keys
from shop.models import PauseChange
from shop.stores import StoreUnavailable, TextRedis, store_faults

log = structlog.get_logger()
_json = msgspec.json.Encoder()


class Part(StrEnum):
    """What can be paused."""

    #: New orders are refused; repeated requests get their order, and everything can be read.
    INTAKE = "intake"
    #: Orders stay queued, and it costs them no attempt.
    FULFILMENT = "fulfilment"


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """A pause that holds. `since_ms`: Unix time."""

    since_ms: int = 0
    who: str = ""
    reason: str = ""


def pause(client: TextRedis, part: Part, *, who: str, reason: str) -> bool:
    """Pause a part; False where it is paused already, which changes nothing. Raises `StoreUnavailable`: Redis is away."""
    new = Pause(since_ms=int(time.time() * 1000), who=who, reason=reason)
    with store_faults():
        if not client.set(keys.pause(part), _json.encode(new), nx=True):
            return False
    _record(part, is_paused=True, who=who, reason=reason)
    return True


def resume(client: TextRedis, part: Part, *, who: str, reason: str = "") -> bool:
    """End a pause; False where there was none. Raises `StoreUnavailable` when Redis is away."""
    with store_faults():
        if not client.delete(keys.pause(part)):
            return False
    _record(part, is_paused=False, who=who, reason=reason)
    return True


def _record(part: Part, *, is_paused: bool, who: str, reason: str) -> None:
    """Keep who did it. PostgreSQL may be the very reason for a pause: then the log alone knows."""
    log.warning("paused" if is_paused else "resumed", part=str(part), who=who, reason=reason)
    try:
        with store_faults():
            PauseChange.objects.create(part=part, is_paused=is_paused, who=who, reason=reason)
    except StoreUnavailable as away:
        log.error("change of a pause was not recorded", part=str(part), who=who, reason=str(away))


def current(client: TextRedis) -> dict[Part, Pause]:
    """The pauses that hold. Raises `StoreUnavailable`."""
    with store_faults():
        pipe = client.pipeline(transaction=False)
        for part in Part:
            pipe.exists(keys.pause(part))
            pipe.mget(keys.pause(part))
        found = pipe.execute()
    return {
        part: _read(text or "")
        for part, there, (text,) in zip(Part, found[::2], found[1::2], strict=True)
        if there
    }


def _read(packed: str) -> Pause:
    """A pause set by hand is one, too, whatever is in its key."""
    try:
        return msgspec.json.decode(packed, type=Pause)
    except msgspec.DecodeError:
        return Pause(reason=packed)


def is_paused(client: TextRedis, part: Part) -> bool:
    """Whether a part is paused. Raises `StoreUnavailable`."""
    with store_faults():
        return bool(client.exists(keys.pause(part)))
