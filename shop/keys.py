"""Every Redis key of the system, in one place: its type, how long it lives, and who writes it.

Nothing else may build a key from text. `tests/test_keys.py` fails where a key outlives its entry here.
"""

from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86_400
LOCK_TTL_MS: Final = 5_000

OPEN_ORDERS: Final = "orders:open"
CANCELLATIONS: Final = "orders:cancelling"
#: Which history of PostgreSQL the versions in Redis are of.
EPOCH: Final = "epoch"
#: Which PostgreSQL Redis follows, and how far it was when somebody looked last (`shop.continuity`).
FOLLOWED: Final = "followed"
#: Exists while somebody lets a PostgreSQL that went back and Redis tell one story again.
RECOVERING: Final = "recovering"
SETTLED_CHANNEL: Final = "orders:settled"
ORDER_QUEUE: Final = "orders"
MAINTENANCE_QUEUE: Final = "maintenance"
#: Of the broker (`workers.transport`): messages in hand, by when they were fetched; parked ones; and what these wait for.
UNACKED_INDEX: Final = "unacked_index"
PARKED: Final = "parked"
PARKED_INDEX: Final = "parked_index"
SWEEPER_HEARTBEAT: Final = "heartbeat:sweeper"
LAST_RECONCILE: Final = "reconcile:last"
REPLACEMENTS: Final = "processes:replaced"
FIGURES: Final = "figures:total"
FIGURES_TTL_S: Final = 900


def stock(sku: str) -> str:
    """Units of the SKU that are free to sell."""
    return f"estoque:{sku}"


def version(sku: str) -> str:
    """Which version of PostgreSQL's counters `estoque:` shows, as `epoch:version` (`shop.stock`)."""
    return f"version:{sku}"


def lock(sku: str) -> str:
    """The SKU's lock; its value is the id of the order that holds it."""
    return f"lock:produto:{sku}"


def idempotency(client: str, key: str) -> str:
    """The order id that a client's idempotency key stands for. Client names hold no colon."""
    return f"idempotency:{client}:{key}"


def order(order_id: str) -> str:
    """The record of an order: what was accepted, and its state."""
    return f"order:{order_id}"


def movement(request: str) -> str:
    """A stock movement that was asked for, by the id of its request."""
    return f"movement:{request}"


def last_attempt(order_id: str) -> str:
    """Exists for a while after the last attempt that an order is allowed began; scripts name it themselves."""
    return f"last_attempt:{order_id}"


def rate(client: str) -> str:
    """The client's token bucket."""
    return f"rate:{client}"


def api_key(digest: str) -> str:
    """What an API key may do, by the SHA-256 of the key."""
    return f"api_key:{digest}"


def figures_of_second(second: int) -> str:
    """What was counted in one second of Unix time."""
    return f"figures:second:{second}"


def ranking(name: str, minute: int) -> str:
    """SKUs by what happened to them in one minute of Unix time."""
    return f"figures:skus:{name}:{minute}"


def pause(part: str) -> str:
    """Exists while a part of the system is paused; scripts name it themselves."""
    return f"pause:{part}"


@dataclass(frozen=True, kw_only=True)
class KeySpec:
    """One kind of key. `lifetime_s`: seconds it may live at most, None where it stays until its owner ends it."""

    pattern: str
    type: str
    lifetime_s: float | None
    owner: str
    meaning: str


SPECS: Final = (
    KeySpec(
        pattern="estoque:*", type="string", lifetime_s=None, owner="shop.stock", meaning="units free to sell"
    ),
    KeySpec(
        pattern="version:*",
        type="string",
        lifetime_s=None,
        owner="shop.stock",
        meaning="epoch and version of what `estoque:` shows, as PostgreSQL has it",
    ),
    KeySpec(
        pattern="lock:produto:*",
        type="string",
        lifetime_s=LOCK_TTL_MS / 1000,
        owner="shop.fulfilment",
        meaning="per-SKU lock; the id of the order that holds it",
    ),
    KeySpec(
        pattern="idempotency:*",
        type="string",
        lifetime_s=DAY_S,
        owner="shop.intake",
        meaning="the order id of a client's idempotency key",
    ),
    KeySpec(
        pattern="order:*",
        type="hash",
        lifetime_s=None,
        owner="shop.intake, shop.fulfilment",
        meaning="an order's document, state and attempts; while it is open, and `ENDED_ORDERS_KEPT_S` from its end",
    ),
    KeySpec(
        pattern="movement:*",
        type="string",
        lifetime_s=None,
        owner="shop.movements",
        meaning="a stock movement that was asked for less than `ENDED_ORDERS_KEPT_S` ago",
    ),
    KeySpec(
        pattern="last_attempt:*",
        type="string",
        lifetime_s=LOCK_TTL_MS / 1000,
        owner="shop.fulfilment",
        meaning="the last attempt that an order is allowed began just now, and may end it yet",
    ),
    KeySpec(
        pattern=OPEN_ORDERS,
        type="zset",
        lifetime_s=None,
        owner="shop.intake",
        meaning="ids of orders without a final state, by when the sweeper should look at them (Unix ms)",
    ),
    KeySpec(
        pattern=CANCELLATIONS,
        type="zset",
        lifetime_s=None,
        owner="shop.cancellation",
        meaning="ids of orders to be cancelled, by when that was asked (Unix ms)",
    ),
    KeySpec(
        pattern=EPOCH,
        type="string",
        lifetime_s=None,
        owner="shop.stock",
        meaning="grows when PostgreSQL goes back, so that all versions are old",
    ),
    KeySpec(
        pattern=FOLLOWED,
        type="string",
        lifetime_s=None,
        owner="shop.continuity",
        meaning="the PostgreSQL that Redis follows, and how far it was",
    ),
    KeySpec(
        pattern=RECOVERING,
        type="string",
        lifetime_s=30,
        owner="shop.continuity",
        meaning="PostgreSQL went back, and somebody sees to it",
    ),
    KeySpec(
        pattern="rate:*", type="string", lifetime_s=2, owner="shop.intake", meaning="a client's token bucket"
    ),
    KeySpec(
        pattern="api_key:*",
        type="string",
        lifetime_s=None,
        owner="shop.clients",
        meaning="client and scopes of an API key (SHA-256), or that it was revoked",
    ),
    KeySpec(
        pattern="heartbeat:*",
        type="string",
        lifetime_s=60,
        owner="workers.heartbeat",
        meaning="a process is alive",
    ),
    KeySpec(
        pattern="workers:seen",
        type="zset",
        lifetime_s=None,
        owner="workers.heartbeat",
        meaning="names of workers of the last day, by their last heartbeat",
    ),
    KeySpec(
        pattern=REPLACEMENTS,
        type="list",
        lifetime_s=DAY_S,
        owner="shop.replacements",
        meaning="processes that ended or fell silent and were replaced, the newest first",
    ),
    KeySpec(
        pattern=LAST_RECONCILE,
        type="string",
        lifetime_s=None,
        owner="shop.reconciliation",
        meaning="its last verdict",
    ),
    KeySpec(
        pattern="pause:*",
        type="string",
        lifetime_s=None,
        owner="shop.pauses",
        meaning="intake or fulfilment is paused: who, since when, why",
    ),
    KeySpec(
        pattern=FIGURES,
        type="hash",
        lifetime_s=None,
        owner="shop.figures",
        meaning="all that was ever counted, for /metrics",
    ),
    KeySpec(
        pattern="figures:second:*",
        type="hash",
        lifetime_s=FIGURES_TTL_S,
        owner="shop.figures",
        meaning="what was counted in one second, for the board",
    ),
    KeySpec(
        pattern="figures:skus:*",
        type="zset",
        lifetime_s=FIGURES_TTL_S,
        owner="shop.figures",
        meaning="SKUs by units asked for, sold, or by locks met, in one minute",
    ),
    KeySpec(
        pattern="cache:*", type="string", lifetime_s=14 * DAY_S, owner="Django", meaning="sessions and cache"
    ),
    KeySpec(
        pattern="orders", type="list", lifetime_s=None, owner="Celery", meaning="messages of orders, waiting"
    ),
    KeySpec(
        pattern="maintenance",
        type="list",
        lifetime_s=None,
        owner="Celery",
        meaning="messages of housekeeping",
    ),
    KeySpec(
        pattern="unacked",
        type="hash",
        lifetime_s=None,
        owner="Celery",
        meaning="messages fetched, not finished",
    ),
    KeySpec(
        pattern=UNACKED_INDEX,
        type="zset",
        lifetime_s=None,
        owner="Celery",
        meaning="when they were fetched",
    ),
    KeySpec(
        pattern=PARKED,
        type="hash",
        lifetime_s=None,
        owner="workers.transport",
        meaning="messages that wait for a lock, a row, PostgreSQL, the end of a pause or a while, in nobody's hands",
    ),
    KeySpec(
        pattern=PARKED_INDEX,
        type="zset",
        lifetime_s=None,
        owner="workers.transport",
        meaning="what they wait for, by when somebody looks whether that is over (Unix ms; 0 = it is)",
    ),
    KeySpec(
        pattern="parked:*",
        type="zset",
        lifetime_s=None,
        owner="workers.transport",
        meaning="who waits for it, those that wait longest first",
    ),
    KeySpec(
        pattern="unreadable",
        type="list",
        lifetime_s=None,
        owner="workers.transport",
        meaning="what was on a queue and is no message, the newest thousand",
    ),
    KeySpec(
        pattern="left_to:*",
        type="string",
        lifetime_s=1,
        owner="workers.transport",
        meaning="the worker that others leave a queue to while it keeps up",
    ),
    KeySpec(
        pattern="unacked_mutex",
        type="string",
        lifetime_s=300,
        owner="Celery",
        meaning="one restorer at a time",
    ),
    KeySpec(
        pattern="_kombu.binding.*", type="set", lifetime_s=None, owner="Celery", meaning="exchange bindings"
    ),
    KeySpec(
        pattern="_kombu.binding_deadlines",
        type="zset",
        lifetime_s=None,
        owner="Celery",
        meaning="when bindings lapse",
    ),
    KeySpec(
        pattern="_kombu.binding_permanent.*",
        type="set",
        lifetime_s=None,
        owner="Celery",
        meaning="bindings that stay",
    ),
    KeySpec(pattern="*.pidbox", type="list", lifetime_s=None, owner="Celery", meaning="remote control"),
)
