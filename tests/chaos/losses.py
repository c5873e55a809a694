"""What a fault that destroys data may cost by its nature: these orders and these wishes, and no other.

An order that PostgreSQL has decided is never lost. One that has been accepted and not decided is known to Redis alone, and
to the worker that may have it in hand: where Redis forgets it, it may be gone.
"""

import re
from dataclasses import dataclass
from typing import Final

from shop import keys

_UUID: Final = rb"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\r\n"


def _command(*words: str) -> bytes:
    """Redis's form of words that follow each other in a command."""
    return b"".join(b"\\$%d\r\n%b\r\n" % (len(word), re.escape(word.encode())) for word in words)


#: Redis writes down what its scripts did: a new record is queued; a wish is noted where there was none.
_TOUCHED: Final = re.compile(re.escape(keys.order("").encode()) + _UUID)
_ACCEPTED: Final = re.compile(re.escape(keys.order("").encode()) + _UUID + _command("status", "queued"))
_WISHED: Final = re.compile(_command(keys.CANCELLATIONS, "NX") + rb"\$\d+\r\n\d+\r\n\$36\r\n" + _UUID)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """`began`, `ended`: Unix times between which the data went. `orders`: accepted, and possibly known to nobody any more.

    `wishes`: orders whose cancellation was asked for, and may be forgotten. `is_rollback`: Redis went back to an earlier
    state, and may again say `confirmed` of an order whose cancellation is among the wishes. `touched`: orders that Redis may
    have forgotten, or may take for queued again, whatever PostgreSQL has of them; None: any.
    """

    began: float
    ended: float
    orders: frozenset[str]
    wishes: frozenset[str]
    is_rollback: bool = False
    touched: frozenset[str] | None = None


def of_tail(tail: bytes, began: float, ended: float) -> Loss:
    """What the end of Redis's append-only file has in it."""
    return Loss(
        began=began,
        ended=ended,
        orders=frozenset(found.decode() for found in _ACCEPTED.findall(tail)),
        wishes=frozenset(found.decode() for found in _WISHED.findall(tail)),
        is_rollback=True,
        touched=frozenset(found.decode() for found in _TOUCHED.findall(tail)),
    )
