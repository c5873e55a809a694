"""What a fault is: a name, how it is done, and how it ends."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.chaos.site import Site


class NotInjected(Exception):
    """There was nothing that the fault could be done to, or it never came about."""


def _ends_by_itself(_: Site, __: Any) -> None:
    """Whatever heals it is part of the system."""


def _is_never_done(_: Site, __: Any) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault.

    `answers`: whether clients can expect answers meanwhile (a 503 is no answer). `inject` returns what `heal` needs; both
    raise NotInjected. `hold_s`: how long it lasts, from and to. `is_done`: whether it may be healed before that. `is_rare`:
    it takes so long that it comes less often than others.
    """

    name: str
    description: str
    answers: bool
    inject: Callable[[Site, Random], Any]
    heal: Callable[[Site, Any], None] = _ends_by_itself
    hold_s: tuple[float, float] = (0.0, 0.0)
    is_done: Callable[[Site, Any], bool] = _is_never_done
    is_rare: bool = False
