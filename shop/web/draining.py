"""How a web process stops: whoever waits for a result is answered, clients are told to connect elsewhere, then granian ends.

granian, told to stop, closes every connection that has no request under way, at once: a client that sends its next
request at that moment gets no answer, and one that waits for a result would keep the process until it is killed.
So SIGTERM begins a short time in which each answer ends its connection, and SIGINT, which granian heeds too, ends it.
"""

import asyncio
import os
import signal
from typing import Final

from shop.results import settlements

#: For how long a process that stops still takes requests, in seconds. Long enough for the answers under way.
DRAIN_S: Final = 0.5


class Draining:
    """Whether this process is about to stop. A second SIGTERM, or SIGINT, skips the time in between."""

    is_on = False

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take SIGTERM over from granian. From the main thread only."""
        loop.add_signal_handler(signal.SIGTERM, self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(0 if self.is_on else DRAIN_S, os.kill, os.getpid(), signal.SIGINT)
        self.is_on = True
        settlements.release()


draining = Draining()
