"""The connections of one process: taken, timed out, and ended.

One thread does all, so that an order costs no switch between threads.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Final

from shop.web.connection import Connection
from shop.web.http import Answer, Request
from workers import sign_of_life

#: Connections of a process, and how many the kernel may keep until a process takes them.
CONNECTIONS_MAX: Final = 8_192
BACKLOG: Final = 8_192
#: How often deadlines are looked at, and how exact they are.
TICK_S: Final = 0.25
#: A loop that looked at its connections less than this ago has made no request wait noticeably, in seconds.
STALL_S: Final = 0.2
#: Where Linux's `struct tcp_info` says how long ago something came, in milliseconds (`tcpi_last_data_recv`).
_LAST_DATA: Final = struct.Struct("52xI")

Application = Callable[[Request], Awaitable[Answer]]


class HttpServer:
    """The connections of one process. `application` answers a request, whatever happens; times are in seconds.

    `kept_bytes`: of requests that its connections have received and not answered. `known_hosts`: the last Host that was
    found good, so that most requests need no look at theirs.
    """

    def __init__(
        self, application: Application, *, head_timeout_s: float, body_timeout_s: float, body_bytes_max: int
    ) -> None:
        self.application = application
        self.head_timeout_s = head_timeout_s
        self.body_timeout_s = body_timeout_s
        self.body_bytes_max = body_bytes_max
        self.connections: set[Connection] = set()
        self.kept_bytes = 0
        self.known_hosts: list[str] = []
        self.is_draining = False
        self.date = ""
        self.loop = asyncio.get_running_loop()
        self._now = self._gap = 0.0
        self._all_are_gone = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Take connections from here on."""
        self._ticking = self.loop.create_task(self._tick())
        self._listener = await self.loop.create_server(
            lambda: Connection(self), sock=listener, backlog=BACKLOG
        )

    async def stop(self, *, drain: Awaitable[object], within_s: float) -> None:
        """End all connections: each answer is the last of its own from now on; after `drain` no new one is taken.

        Whoever has no request under way then is cut off, and so is, `within_s` later, whoever still has one.
        """
        self.is_draining = True
        await drain
        assert self._listener
        self._listener.close()
        self._all_are_gone.clear()
        await asyncio.sleep(0)  # connections that were taken at the last moment may have sent something
        for connection in list(self.connections):
            connection.end_if_idle()
        if self.connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_are_gone.wait(), within_s)
        for connection in list(self.connections):
            connection.abort()
        if self._ticking:
            self._ticking.cancel()

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than there may be."""
        return len(self.connections) > CONNECTIONS_MAX

    def arrival(self, transport: asyncio.Transport) -> float:
        """When the request that this connection has just brought to its end had arrived (loop time).

        The kernel receives while the loop stands still, and knows for how long the client has waited. To ask it costs a
        twentieth of an order: only after a pause of the loop, which under load is a stall.
        """
        now = self.loop.time()
        if now != self._now:
            self._gap, self._now = now - self._now, now
        return now if self._gap < STALL_S else now - _silent_s(transport)

    def forget(self, connection: Connection) -> None:
        """This one is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._all_are_gone.set()

    async def _tick(self) -> None:
        while True:
            sign_of_life.show()
            self.date = formatdate(usegmt=True)
            now = self.loop.time()
            for connection in [each for each in self.connections if each.is_late(now)]:
                connection.time_out()
            await asyncio.sleep(TICK_S)


def _silent_s(transport: asyncio.Transport) -> float:
    """For how many seconds nothing has come from a client; 0 where the system can't tell."""
    if not hasattr(socket, "TCP_INFO"):
        return 0.0
    try:
        packed = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA.size
        )
    except OSError:
        return 0.0
    return float(_LAST_DATA.unpack(packed)[0]) / 1000 if len(packed) == _LAST_DATA.size else 0.0
