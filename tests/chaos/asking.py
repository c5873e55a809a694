"""Requests to the API, each sent once and written down with what came of it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import quote

import msgspec

from shop.http_connection import Answer, Origin, Pool, ProtocolError
from tests.chaos.history import FAIL, OK, UNKNOWN, History, Operation

#: A request that has no answer by then is unknown. The API itself promises one within two seconds.
TIMEOUT_S: Final = 3.0
#: The process number of what is asked at the end, after all clients.
LAST: Final = -1

Lines = tuple[tuple[str, int], ...]


class Asker:
    """Sends requests over at most so many connections."""

    def __init__(self, url: str, api_key: str, history: History, *, connections: int) -> None:
        self._pool = Pool(Origin.of(url), connections)
        self._authorization = f"Bearer {api_key}"
        self._history = history

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    async def place(self, process: int, key: str, lines: Lines) -> Operation:
        """Place an order under a key."""
        document = {"items": [{"sku": sku, "quantity": units} for sku, units in lines], "reference": key}
        headers = {"Idempotency-Key": key}
        return await self._ask(
            "POST", "/api/v1/orders", headers, document, process=process, op="order", key=key, lines=lines
        )

    async def move(self, process: int, key: str, sku: str, delta: int) -> Operation:
        """Change the stock of a SKU."""
        target = f"/api/v1/products/{quote(sku, safe='')}/stock-movements"
        document = {"delta": delta, "reason": key}
        headers = {"Idempotency-Key": key}
        return await self._ask(
            "POST", target, headers, document, process=process, op="move", key=key, lines=((sku, delta),)
        )

    async def cancel(self, process: int, order_id: str) -> Operation:
        """Ask for an order to be cancelled."""
        target = f"/api/v1/orders/{order_id}/cancel"
        return await self._ask("POST", target, {}, None, process=process, op="cancel", id=order_id)

    async def poll(self, process: int, order_id: str, *, wait_s: int = 0) -> Operation:
        """Ask for an order."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        return await self._ask(
            "GET", f"/api/v1/orders/{order_id}", headers, None, process=process, op="poll", id=order_id
        )

    async def _ask(
        self, method: str, target: str, headers: Mapping[str, str], document: Any, **known: Any
    ) -> Operation:
        sent = {"Authorization": self._authorization, **headers}
        body = b"" if document is None else msgspec.json.encode(document)
        if body:
            sent["Content-Type"] = "application/json"
        answer: Answer | None = None
        start = time.time()
        try:
            answer = await self._pool.ask(method, target, sent, body, timeout_s=TIMEOUT_S)
        except (OSError, EOFError, ProtocolError):
            await asyncio.sleep(0.05)  # nobody listens: do not ask a thousand times
        operation = Operation(start=start, end=time.time(), **{**known, **_told(answer, known["op"])})
        self._history.add(operation)
        return operation

    async def states(self, ids: Sequence[str]) -> dict[str, str]:
        """What the API says of orders now, not written down; those that it does not know are left out."""
        states: dict[str, str] = {}
        unasked = iter(ids)

        async def ask_all() -> None:
            for order_id in unasked:
                headers = {"Authorization": self._authorization}
                target = f"/api/v1/orders/{order_id}"
                answer = await self._pool.ask("GET", target, headers, b"", timeout_s=10)
                if answer.status == HTTPStatus.OK:
                    states[order_id] = msgspec.json.decode(answer.body)["status"]
                elif answer.status != HTTPStatus.NOT_FOUND:
                    states[order_id] = f"answered with {answer.status}"

        await asyncio.gather(*(ask_all() for _ in range(16)))
        return states


def _told(answer: Answer | None, op: str) -> dict[str, Any]:
    """What an answer says: outcome, and of an order its id and state."""
    if answer is None or answer.status >= 500:
        return {"outcome": UNKNOWN, "status": answer.status if answer else 0}
    if answer.status >= 400:
        return {"outcome": FAIL, "status": answer.status}
    told: dict[str, Any] = {"outcome": OK, "status": answer.status}
    if op != "move":
        document = msgspec.json.decode(answer.body)
        told |= {"id": document["id"], "state": document["status"]}
    return told


class Buyer:
    """One client for plain code, as a context manager."""

    def __init__(self, url: str, api_key: str, history: History) -> None:
        self._runner = asyncio.Runner()
        self._asker = Asker(url, api_key, history, connections=16)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._asker.close()
        self._runner.close()

    def place(self, key: str, lines: Lines) -> Operation:
        """Place an order under a key, once."""
        return self._runner.run(self._asker.place(LAST, key, lines))

    def poll(self, order_id: str) -> Operation:
        """Ask for an order, and wait a while for its end."""
        return self._runner.run(self._asker.poll(LAST, order_id, wait_s=2))

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        """What the API says of orders now."""
        return self._runner.run(self._asker.states(ids))
