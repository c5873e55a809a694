"""What clients did and what they were told, one line of JSON for each request."""

from pathlib import Path
from typing import Final, Self

import msgspec

OK: Final = "ok"
FAIL: Final = "fail"
#: Nobody can say whether it happened: no answer, half an answer, or a 5xx.
UNKNOWN: Final = "unknown"

ENDED: Final = frozenset({"confirmed", "rejected", "failed", "cancelled"})


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request. `start`, `end`: Unix time in seconds. `process`: the client, which does one thing after the other.

    `op`: `order`, `cancel`, `move` or `poll`. `lines`: (SKU, units) ordered, or the SKU and the change of stock.
    `state`: the order's, as the answer has it.
    """

    process: int
    op: str
    start: float
    end: float
    outcome: str
    status: int = 0
    key: str = ""
    lines: tuple[tuple[str, int], ...] = ()
    id: str = ""
    state: str = ""


_encode = msgspec.json.Encoder().encode


class History:
    """All operations in the order in which they ended. One thread adds, others may look."""

    def __init__(self, path: Path) -> None:
        self.operations: list[Operation] = []
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, operation: Operation) -> None:
        """Note an operation that has ended."""
        self.operations.append(operation)
        self._file.write(_encode(operation) + b"\n")


def read(path: Path) -> list[Operation]:
    """A history that was written before."""
    decoder = msgspec.json.Decoder(Operation)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]
