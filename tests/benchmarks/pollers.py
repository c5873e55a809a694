"""Clients that wait for results: one connection and one long poll each, asked again whenever it comes back empty."""

import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.benchmarks import wire
from tests.benchmarks.load import LoadFailed

#: Polls come back after half a minute at the latest; a poller that hears nothing for so long never will.
GIVE_UP_S: Final = 120.0
_QUEUED: Final = b'"status":"queued"'


@dataclass(frozen=True, kw_only=True)
class Woken:
    """`last_at`: when the last poller had its result, by `time.monotonic`. `asked_again`: polls that came back empty."""

    last_at: float
    asked_again: int


@dataclass(frozen=True, kw_only=True)
class Pollers:
    """One poller for each of these requests; says that all wait with one byte before its result."""

    address: wire.Address
    requests: Sequence[bytes]

    def run(self) -> Woken:
        """Wait for all results. Raises LoadFailed."""
        waiting: dict[int, tuple[socket.socket, bytes]] = {}
        readable = select.epoll()
        for request in self.requests:
            connection = wire.connect(self.address)
            connection.sendall(request)
            waiting[connection.fileno()] = (connection, request)
            readable.register(connection.fileno(), select.EPOLLIN)
        sys.stdout.buffer.write(b".")
        sys.stdout.buffer.flush()
        asked_again = 0
        while waiting:
            events = readable.poll(GIVE_UP_S)
            if not events:
                raise LoadFailed(f"{len(waiting)} pollers heard nothing for {GIVE_UP_S:g} s")
            for number, _ in events:
                connection, request = waiting[number]
                answer = _answer(connection)
                if _QUEUED in answer:
                    asked_again += 1
                    connection.sendall(request)
                elif wire.status(answer) == 200:
                    waiting.pop(number)[0].close()
                else:
                    raise LoadFailed(f"a poller heard {answer[:200]!r}")
        return Woken(last_at=time.monotonic(), asked_again=asked_again)


def _answer(connection: socket.socket) -> bytes:
    data = b""
    while not data or not wire.is_whole(data):
        more = connection.recv(wire.READ_BYTES)
        if not more:
            raise LoadFailed("the server closed a poller's connection")
        data += more
    return data
