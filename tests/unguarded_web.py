"""The web tier without one of its guards, the one that UNGUARDED names: whether a test would notice that it is gone."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from shop.pages.buyer import Buyer, new_key
from shop.web import bodies
from shop.web.asgi import application  # noqa: F401 - what granian serves
from shop.web.gate import Gate
from shop.web.problems import Kind, Problem


def _without_time_limit() -> None:
    bodies._BODY_TIMEOUT_S = 3600


def _without_size_limit() -> None:
    bodies._MAX_BODY_BYTES = 10**9


def _without_parts_limit() -> None:
    bodies.PARTS_MAX = 10**9


def _without_an_answer_to_what_breaks_off() -> None:
    kinds = Kind

    class Silent(Problem):
        def __init__(self, *, kind: Kind, **more: Any) -> None:
            if kind is kinds.INCOMPLETE_BODY:
                raise ConnectionAbortedError
            super().__init__(kind=kind, **more)

    bodies.Problem = Silent


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


GUARDS: Mapping[str, Callable[[], None]] = {
    "all but a hundred places of the gate": _with_a_gate_of_a_hundred,
    "gate": _without_a_gate,
    "time": _without_time_limit,
    "size": _without_size_limit,
    "parts": _without_parts_limit,
    "own keys": _with_one_key_for_all_orders_of_a_buyer,
    "the past": _with_orders_from_pages_of_the_past,
    "own keys and the past": _with_both,
    "framing": _without_an_answer_to_what_breaks_off,
}
GUARDS[os.environ["UNGUARDED"]]()
