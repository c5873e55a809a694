"""What the system is doing at this moment: what waits, who works, what was found wrong. One look, whoever asks."""

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from shop import keys, pauses, redis_memory, replacements
from shop.domain import Order
from shop.pauses import Part, Pause
from shop.queue import BROKER_IS_LEDGER, FULFIL_TASK
from shop.reconciliation import Verdict, last_verdict
from shop.redis_memory import Memory
from shop.replacements import Replacement
from shop.stores import TextRedis, known, store_faults
from shop.sweeper import HEARTBEAT_TTL_S
from workers import heartbeat
from workers.transport import PARKED_FOR

_message = msgspec.json.Decoder(dict[str, Any])
_arguments = msgspec.json.Decoder(tuple[tuple[Order], dict[str, Any], Any])


@dataclass(frozen=True, kw_only=True)
class SystemState:
    """One look at the system. Ages are in seconds, None where there is nothing that could have one.

    `now_s`: Redis's clock, in Unix time. `waiting`: messages of orders that no worker has fetched; `oldest_s`: for how long
    the order that is next has waited, or one that waits for PostgreSQL or the end of a pause, None too where the broker is
    not the orders' Redis; `in_hand`: messages that workers have fetched and not finished; `parked`: those that wait for a
    lock, a row, PostgreSQL, the end of a pause or a while. `workers`: those that can take orders, by the age of their last
    heartbeat. `replaced`: processes that were replaced, newest first. `memory`: of Redis; None where it allows no look.

    What stands in a key of housekeeping that somebody has broken is unknown: None of `parked`, `unreadable` and `workers`,
    and as there was none yet of `reconcile`. The keys of orders are Redis's own state: broken, the whole look fails.
    """

    now_s: float
    open_orders: int = 0
    cancelling: int = 0
    waiting: int = 0
    oldest_s: float | None = None
    in_hand: int = 0
    parked: int | None = 0
    housekeeping: int = 0
    unreadable: int | None = 0
    workers: Mapping[str, float] | None = field(default_factory=dict)
    swept_s: float | None = None
    reconcile: Verdict | None = None
    pauses: Mapping[Part, Pause] = field(default_factory=dict)
    replaced: Sequence[Replacement] = ()
    memory: Memory | None = None

    @property
    def reconciled_s(self) -> float | None:
        """Age of the last reconcile's verdict. Its clock is a worker's: it never lies ahead."""
        return None if self.reconcile is None else max(0.0, self.now_s - self.reconcile.at_ms / 1000)


def look(client: TextRedis) -> SystemState:
    """Look at the system. Raises `StoreUnavailable` when Redis is away."""
    with store_faults():
        pipe = client.pipeline(transaction=False)
        pipe.time()
        pipe.zcard(keys.OPEN_ORDERS)
        pipe.zcard(keys.CANCELLATIONS)
        pipe.llen(keys.ORDER_QUEUE)
        pipe.lindex(keys.ORDER_QUEUE, -1)
        pipe.hlen("unacked")
        pipe.llen(keys.MAINTENANCE_QUEUE)
        found = pipe.execute()
        # Of housekeeping: no order needs them.
        pipe.hlen(keys.PARKED)
        pipe.zrange(PARKED_FOR + FULFIL_TASK, 0, 0, withscores=True)
        pipe.llen("unreadable")
        pipe.zrange(heartbeat.SEEN, 0, -1)
        pipe.pttl(keys.SWEEPER_HEARTBEAT)
        pipe.get(keys.LAST_RECONCILE)
        parked, put_off, unreadable, names, swept_left_ms, verdict = known(pipe.execute(raise_on_error=False))
    (seconds, microseconds), *counts = found
    now_s = seconds + microseconds / 1e6
    return SystemState(
        now_s=now_s,
        open_orders=counts[0],
        cancelling=counts[1],
        waiting=counts[2],
        oldest_s=_waited_s(counts[3], put_off, now_s) if BROKER_IS_LEDGER else None,
        in_hand=counts[4],
        parked=parked,
        housekeeping=counts[5],
        unreadable=unreadable,
        workers=None if names is None else _alive(client, names),
        swept_s=_age_s(swept_left_ms, HEARTBEAT_TTL_S),
        reconcile=last_verdict(verdict),
        pauses=pauses.current(client),
        replaced=replacements.recent(client),
        memory=redis_memory.look(client),
    )


def _alive(client: TextRedis, names: list[str]) -> dict[str, float]:
    """Workers whose heartbeat has not expired."""
    with store_faults():
        pipe = client.pipeline(transaction=False)
        for name in names:
            pipe.pttl(heartbeat.key(name))
        ages = [_age_s(left_ms, heartbeat.TTL_S) for left_ms in pipe.execute()]
    return {name: age for name, age in zip(names, ages, strict=True) if age is not None}


def _age_s(left_ms: int, lifetime_s: float) -> float | None:
    """How long ago a key was written that lives for `lifetime_s`: by Redis's clock alone, whatever the writer's says."""
    return max(0.0, lifetime_s - left_ms / 1000) if left_ms >= 0 else None


def _waited_s(message: str | None, put_off: list[tuple[str, float]] | None, now_s: float) -> float | None:
    """How long the next order's message or the first of those put off has waited; None where neither holds an order."""
    accepted_ms = [since_ms for _, since_ms in put_off or ()]
    with suppress(ValueError, KeyError, TypeError):
        body = base64.b64decode(_message.decode(message or "")["body"])
        (order,), *_ = _arguments.decode(body)
        accepted_ms.append(order.accepted_at_ms)
    return max(0.0, now_s - min(accepted_ms) / 1000) if accepted_ms else None
