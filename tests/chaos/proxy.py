"""A way to a server that can be made bad: slow, silent, cut in one direction, broken, or closed.

    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        proxy.trouble(Trouble(delay_s=0.2, share=0.5))
        proxy.heal()

What was sent while the way was silent arrives late, also when its sender has given up meanwhile, as packets do. A
connection that has lost bytes is reset when the trouble ends: nothing after the gap would make sense.
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

from tests.chaos.commits import CommitWatch, ends_ready
from workers.ports import LOOPBACK, free_port

READ_BYTES: Final = 65_536
TRICKLE_BYTES: Final = 64
#: Closing then sends RST instead of FIN, socket(7).
_AT_ONCE: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What is wrong with a way. `share`: of the connections that have it, from 0 to 1.

    `delay_s`: added in each direction. `is_silent`: nothing arrives until it heals. `loses_commands`, `loses_replies`:
    what goes in this direction is gone. `bytes_per_s`: 0 where there is no limit. `refuses`: new connections.
    `cuts_commits`: so many statements that write are run, and instead of the reply comes a reset.
    """

    delay_s: float = 0.0
    is_silent: bool = False
    loses_commands: bool = False
    loses_replies: bool = False
    bytes_per_s: int = 0
    refuses: bool = False
    cuts_commits: int = 0
    share: float = 1.0


NONE: Final = Trouble()


#: Rounds of the loop in which a connection that is accepted gets its task, and one that is cut off is closed.
ROUNDS = 10


class FaultProxy:
    """Listens on `port` and passes everything on to a server, through whatever trouble it is told to make.

    Works in a thread of its own; its methods are for other threads. `commits_cut`: how many so far.
    """

    def __init__(self, server: tuple[str, int], *, seed: int = 0) -> None:
        self.port = free_port()
        self.commits_cut = 0
        self.trouble_now = NONE
        self._server = server
        self._cut_until = 0
        self._random = random.Random(seed)
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def trouble(self, trouble: Trouble) -> None:
        """Make this trouble from now on, instead of the one before."""
        self._do(self._switch(trouble))

    def heal(self) -> None:
        """Be a good way again."""
        self.trouble(NONE)

    def lead_to(self, server: tuple[str, int]) -> None:
        """Lead to another server from now on. Who is connected to the one before is cut off."""
        self._server = server
        self.reset()

    def reset(self, share: float = 1.0) -> int:
        """Reset connections that are open now; how many."""
        return self._do(self._reset(lambda link: link.roll < share))

    @property
    def is_open(self) -> bool:
        """Whether it works: between entering and leaving it."""
        return self._loop.is_running()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._links)

    @property
    def gaps(self) -> int:
        """How many of them have lost bytes."""
        return sum(link.has_gap for link in self._links)

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, LOOPBACK, self.port, backlog=1024)

    async def _switch(self, trouble: Trouble) -> None:
        await self._reset(lambda link: link.has_gap)
        self.trouble_now = trouble
        self._cut_until = self.commits_cut + trouble.cuts_commits
        if trouble.refuses and self._listener:
            self._listener.close()
            self._listener = None
        elif not trouble.refuses and not self._listener:
            await self._listen()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _reset(self, wanted: "Callable[[_Link], bool]") -> int:
        links = [link for link in self._links if wanted(link)]
        for link in links:
            link.reset()
        return len(links)

    async def _close(self) -> None:
        if self._listener:
            self._listener.close()
        # Who connected a moment ago has its task some rounds later, and what is cut off ends some rounds later.
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
        await self._reset(lambda _: True)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(ROUNDS):
            await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        link = _Link(self, writer, self._random.random())
        self._links.add(link)
        try:
            await link.serve(reader, self._server)
        except (OSError, EOFError):
            link.reset()
        except asyncio.CancelledError:
            link.reset()  # the proxy closes; asyncio's own callback does not expect a task that was cancelled
        finally:
            self._links.discard(link)
            link.close()

    @property
    def cuts_commits(self) -> bool:
        """Whether the next commit is to be cut."""
        return self.commits_cut < self._cut_until

    async def changed(self) -> None:
        """Wait until the trouble is another one."""
        await self._changed.wait()


class _Link:
    """One connection of a client, and the one to the server that belongs to it. `roll`: whether trouble has it."""

    def __init__(self, proxy: FaultProxy, client: asyncio.StreamWriter, roll: float) -> None:
        self.roll = roll
        self.has_gap = False
        self._proxy = proxy
        self._writers = [client]
        self._commits = CommitWatch()
        self._is_cutting = False

    @property
    def _trouble(self) -> Trouble:
        now = self._proxy.trouble_now
        return now if self.roll < now.share else NONE

    async def serve(self, from_client: asyncio.StreamReader, server: tuple[str, int]) -> None:
        await self._silence()
        from_server, to_server = await asyncio.open_connection(*server)
        to_client = self._writers[0]
        self._writers.append(to_server)
        pumps = [
            asyncio.ensure_future(self._pump(from_client, to_server, is_reply=False)),
            asyncio.ensure_future(self._pump(from_server, to_client, is_reply=True)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def reset(self) -> None:
        """End both connections at once, and let the client see that it was no clean end."""
        for writer in self._writers:
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()

    def close(self) -> None:
        """End both after what was written has been sent."""
        for writer in self._writers:
            writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        while data := await reader.read(READ_BYTES):
            await self._silence()
            if self._trouble.delay_s:
                await asyncio.sleep(self._trouble.delay_s)
            if self._is_lost(data, is_reply=is_reply):
                continue
            await self._write(writer, data)
        await self._silence()

    async def _silence(self) -> None:
        while self._trouble.is_silent:
            await self._proxy.changed()

    def _is_lost(self, data: bytes, *, is_reply: bool) -> bool:
        if not is_reply and self._commits.sees_commit(data):
            self._is_cutting = self._is_cutting or (self._trouble is not NONE and self._proxy.cuts_commits)
        if is_reply and self._is_cutting:
            if ends_ready(data):
                self._proxy.commits_cut += 1
                self.reset()
            return True
        lost = self._trouble.loses_replies if is_reply else self._trouble.loses_commands
        self.has_gap = self.has_gap or lost
        return lost

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        step = TRICKLE_BYTES if self._trouble.bytes_per_s else READ_BYTES
        for at in range(0, len(data), step):
            writer.write(data[at : at + step])
            await writer.drain()
            if self._trouble.bytes_per_s:
                await asyncio.sleep(step / self._trouble.bytes_per_s)
