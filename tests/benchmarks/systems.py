"""What is measured: the face that this system and its baselines show to the benchmark."""

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from tests.benchmarks import wire
from tests.benchmarks.meter import Pids

POLL_S: Final = 0.02

Line = tuple[str, int]


class System(ABC):
    """A system that takes orders over HTTP; started and stopped as a context manager."""

    #: As it stands in the table.
    name: str
    address: wire.Address

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it takes orders. Raises PartFailedError."""

    @abstractmethod
    def stop(self) -> None:
        """Stop all of it; nothing stays behind."""

    @abstractmethod
    def pids(self) -> Pids:
        """Its processes by component: web, worker, redis, postgres and what else it has."""

    @abstractmethod
    def put_on_sale(self, stock: Mapping[str, int]) -> None:
        """Put new SKUs on sale, each with so many units."""

    @abstractmethod
    def post(self, key: str, lines: Sequence[Line]) -> bytes:
        """The request that places an order under an idempotency key."""

    @abstractmethod
    def get(self, order_id: str, *, wait_s: int) -> bytes:
        """The request that asks for an order; where the system can, the answer is held until the order ends."""

    @abstractmethod
    def waiting(self) -> int:
        """How many accepted orders have not ended yet."""

    @abstractmethod
    def snapshot(self, skus: Sequence[str]) -> Any:
        """What its stores say before a round of orders for these SKUs."""

    @abstractmethod
    def faults(self, before: Any, accepted: Sequence[str]) -> list[str]:
        """What is wrong with its stores after a round in which these orders were accepted, and no others."""

    def audit(self) -> list[str]:
        """What is wrong with all that it has stored, at the end."""
        return []


def ask(address: wire.Address, request: bytes) -> bytes:
    """The whole answer to one request on a connection of its own. Raises OSError."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(request)
        data = b""
        while not data or not wire.is_whole(data):
            more = connection.recv(wire.READ_BYTES)
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return data


def wait_until(condition: Callable[[], object], *, within_s: float, what: str) -> None:
    """Wait for a condition. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(POLL_S)


def unless(holds: bool, fault: str) -> list[str]:
    """The fault, where it is one."""
    return [] if holds else [fault]
