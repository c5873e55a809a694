"""The web tier without one of its guards, the one that UNGUARDED names: whether a test would notice that it is gone."""

import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager

from django.conf import settings

from shop.web import process  # isort: skip - sets Django up, before anything of the shop is imported
from shop.pages.buyer import Buyer, new_key
from shop.redis_memory import Memory
from shop.results import Settlements
from shop.web import connection, orders, parsing
from shop.web.__main__ import main
from shop.web.gate import Gate
from shop.web.lanes import Lane
from shop.web.refusals import Refusals
from shop.web.server import HttpServer


def _without_time_limits() -> None:
    settings.HEAD_TIMEOUT_S = settings.BODY_TIMEOUT_S = 3600


def _without_size_limit() -> None:
    settings.MAX_BODY_BYTES = 10**9


def _without_parts_limit() -> None:
    connection.PARTS_MAX = 10**9


def _without_more_open_files() -> None:
    process.allow_open_files = lambda count: count


def _without_haste() -> None:
    orders.PATIENCE_S = 20.0
    settings.REDIS_URL += "?socket_timeout=20"


def _without_release_of_who_waits() -> None:
    Settlements.release = lambda _settlements: None  # type: ignore[method-assign]


def _with_a_gate_of_a_hundred() -> None:
    Gate.MOST = 100


def _without_a_gate() -> None:
    Gate.MOST = Gate.FEW = 10**9


def _with_one_key_for_all_orders_of_a_buyer() -> None:
    ordered = Buyer.ordered

    def all_keys_move_on(buyer: Buyer, order_id: str) -> None:
        buyer.key, buyer.taps, buyer.first_tap = new_key(), {}, buyer.first_tap + 1
        ordered(buyer, order_id)

    Buyer.ordered = all_keys_move_on  # type: ignore[method-assign]


def _with_orders_from_pages_of_the_past() -> None:
    Buyer.is_past = lambda _buyer, _tap: False  # type: ignore[method-assign]


def _with_both() -> None:
    _with_one_key_for_all_orders_of_a_buyer()
    _with_orders_from_pages_of_the_past()


def _with_blanks_in_two_places() -> None:
    parsing._JSON_TYPE = re.compile(r"application/json((?:[ \t]*;[ \t]*(?:[a-z]+=[a-z]+)?)*)[ \t]*")


def _without_a_rate_of_refusals() -> None:
    Refusals.count = lambda _refusals, _client, _body_bytes: None  # type: ignore[method-assign]


def _without_places_for_pages() -> None:
    @asynccontextmanager
    async def a_thread_for_each(_lane: Lane, _address: str, _at: float, **_: int) -> AsyncIterator[Executor]:
        with ThreadPoolExecutor(max_workers=1) as thread:
            yield thread

    Lane.place = a_thread_for_each  # type: ignore[method-assign]


def _without_the_time_of_arrival() -> None:
    HttpServer.arrival = lambda server, _transport: server.loop.time()  # type: ignore[method-assign]


def _without_places_and_the_time_of_arrival() -> None:
    _without_places_for_pages()
    _without_the_time_of_arrival()


def _without_a_watermark() -> None:
    Memory.is_short = False  # type: ignore[assignment, method-assign]


GUARDS: Mapping[str, Callable[[], None]] = {
    "all but a hundred places of the gate": _with_a_gate_of_a_hundred,
    "gate": _without_a_gate,
    "haste": _without_haste,
    "time": _without_time_limits,
    "release": _without_release_of_who_waits,
    "size": _without_size_limit,
    "open files": _without_more_open_files,
    "linear patterns": _with_blanks_in_two_places,
    "rate of refusals": _without_a_rate_of_refusals,
    "parts": _without_parts_limit,
    "own keys": _with_one_key_for_all_orders_of_a_buyer,
    "the past": _with_orders_from_pages_of_the_past,
    "own keys and the past": _with_both,
    "watermark": _without_a_watermark,
    "crowds": _without_places_and_the_time_of_arrival,
}
if __name__ == "__main__":
    GUARDS[os.environ["UNGUARDED"]]()
    main()
