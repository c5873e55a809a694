"""Keeping out what can't be served: whoever would only wait is refused before anything is read or asked for it."""

import math
from contextlib import AbstractContextManager
from typing import Final

from shop import figures
from shop.web.problems import Kind, Problem


class _Counted:
    """Counts who is inside. One for all: `contextlib` would make a generator for each order, at a hundredth of its cost."""

    def __init__(self, gate: "Gate") -> None:
        self._gate = gate

    def __enter__(self) -> None:
        self._gate.inside += 1

    def __exit__(self, *raised: object) -> None:
        self._gate.inside -= 1


class Gate:
    """Counts the orders that one process takes in at the moment. Moments are those of the event loop."""

    #: So many wait for a second at most: more would wait to their deadline, and be refused though they may be accepted.
    MOST: Final = 2_500
    #: So few may always ask whether the queue is still full, and get answers to keys that were used before.
    FEW: Final = 64
    FULL_FOR_S: Final = 0.1

    def __init__(self) -> None:
        self.inside = 0
        self._full_until = 0.0
        self._counted = _Counted(self)

    def passage(self, now: float, deadline: float = math.inf) -> AbstractContextManager[None]:
        """A block that accepts one order. Raises `Problem` where the order would only keep others waiting.

        That includes an order whose `deadline` has passed before its turn came.
        """
        if self.inside >= self.MOST or now >= deadline:
            figures.tally.add(f"{figures.INTAKE}unavailable")
            raise Problem(kind=Kind.UNAVAILABLE)
        if self.inside >= self.FEW and now < self._full_until:
            figures.tally.add(f"{figures.INTAKE}queue_full")
            raise Problem(kind=Kind.QUEUE_FULL)
        return self._counted

    def found_full(self, now: float) -> None:
        """Take note that the queue, or Redis's memory, is over its limit."""
        self._full_until = now + self.FULL_FOR_S
