"""Asking for an order to be cancelled. The asking is recorded before it is answered; `shop.fulfilment` carries it out."""

import asyncio
import contextlib
import time
from enum import StrEnum

from shop import keys, queue, scripts
from shop.results import find
from shop.stores import StoreUnavailable, store_faults, web_redis

PUBLISH_PATIENCE_S = 1.0


class Cancellation(StrEnum):
    """What became of the wish."""

    REQUESTED = "requested"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    UNKNOWN = "unknown"


async def request_cancel(order_id: str, client: str) -> Cancellation:
    """Note that the client wants its order cancelled. Raises `StoreUnavailable` with nothing noted."""
    state = await find(order_id, client)
    outcome = await _request(order_id, client, state.status.value if state else "")
    if outcome is Cancellation.REQUESTED and not queue.BROKER_IS_LEDGER:
        # The wish is recorded: with the broker away, the sweeper carries it out.
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(PUBLISH_PATIENCE_S):
                await queue.publish_async(queue.CANCEL_TASK, queue.new_task_id(), order_id)
    return outcome


async def is_requested(order_id: str) -> bool:
    """Whether a wish to cancel the order is recorded and not carried out yet. Raises `StoreUnavailable`."""
    with store_faults():
        return await web_redis().zscore(keys.CANCELLATIONS, order_id) is not None


async def _request(order_id: str, client: str, status_in_books: str) -> Cancellation:
    message = queue.cancel_message(order_id) if queue.BROKER_IS_LEDGER else ""
    names = [keys.order(order_id), keys.CANCELLATIONS, queue.broker_key()]
    args = [order_id, client, int(time.time() * 1000), message, status_in_books]
    with store_faults():
        return Cancellation(await scripts.run_async(web_redis(), "request_cancel", names, args))
