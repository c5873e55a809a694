"""Tests that only add depth, marked `depth`: longer searches, more seeds, full-size crowds of what other tests ask as well.

`make test` leaves them out and says how many they are; `make test-all` runs them.
"""

from collections.abc import Iterable

import pytest

_left: set[str] = set()
_told: list[int] = []


def leave(items: Iterable[pytest.Item]) -> None:
    """Note which of these tests, which will not run, add depth."""
    _left.update(item.nodeid for item in items if item.get_closest_marker("depth"))


def left() -> int:
    """How many tests this process has left."""
    return len(_left)


def hear(count: int) -> None:
    """Note how many tests a process has left that runs some of them."""
    _told.append(count)


def left_out() -> str:
    """What a summary says of them; empty where all were run."""
    count = max(_told, default=left())
    return f"Left to `make test-all`: {count} tests that add depth (marked `depth`)." if count else ""
