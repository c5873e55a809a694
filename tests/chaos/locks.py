"""Whether locks exclude, from Redis's own account of its commands (MONITOR).

MONITOR shows each command when it is executed, those of scripts too, in the order in which they changed anything. It costs
Redis much of its speed, so it runs for a part of the time only.
"""

import re
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Self

from shop import keys
from workers.embedded import RedisServer
from workers.ports import LOOPBACK

_PREFIX: Final = keys.lock("")
_LINE: Final = re.compile(r"\+?(\d+\.\d+) \[\d+ (\S+)\] (.*)")
_ARGUMENT: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
#: Redis decides by a clock that it reads once per command, whether a key has expired.
CLOCK_S: Final = 0.05
_LONGEST_MS: Final = keys.LOCK_TTL_MS


class LockWatch:
    """Follows `lock:produto:*` through a trace. `violations`: what must not be; `taken`: how many locks were taken."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.taken = 0
        self._held: dict[str, tuple[str, float]] = {}
        self._script: list[str] = []

    def forget(self) -> None:
        """The trace has a gap: nobody knows who holds what."""
        self._held.clear()

    def feed(self, lines: Iterable[str]) -> Self:
        """Look at lines of the trace."""
        for line in lines:
            # Most lines are about other things.
            if (_PREFIX in line or "EVAL" in line or "FLUSH" in line) and (found := _LINE.match(line)):
                at, source, rest = found.groups()
                self._look(float(at), source == "lua", _ARGUMENT.findall(rest))
        return self

    def _look(self, at: float, is_script: bool, command: list[str]) -> None:
        match [command[0].upper(), *command[1:]]:
            case ["EVALSHA" | "EVAL", *arguments]:
                self._script = arguments
            case ["FLUSHALL" | "FLUSHDB", *_]:
                self.forget()
            case ["SET", key, holder, *options] if key.startswith(_PREFIX):
                self._take(at, key, holder, options)
            case ["DEL", *names]:
                for key in names:
                    if key.startswith(_PREFIX):
                        self._release(at, key, is_script)

    def _take(self, at: float, key: str, holder: str, options: list[str]) -> None:
        self.taken += 1
        owner, expires_at = self._held.get(key, ("", 0.0))
        if owner and owner != holder and at < expires_at - CLOCK_S:
            self.violations.append(f"{key} taken by {holder} while {owner} held it, at {at:.3f}")
        lives_ms = int(options[1]) if len(options) == 2 and options[0].upper() == "PX" else 0
        if not 1 <= lives_ms <= _LONGEST_MS:
            self.violations.append(f"{key} taken by {holder} for {lives_ms} ms, at {at:.3f}")
        self._held[key] = (holder, at + lives_ms / 1000)

    def _release(self, at: float, key: str, is_script: bool) -> None:
        """Somebody who deletes a key by hand is no holder; a script is told for whom it releases."""
        owner, expires_at = self._held.pop(key, ("", 0.0))
        if owner and is_script and owner not in self._script and at < expires_at - CLOCK_S:
            self.violations.append(f"{key} of {owner} released by somebody else, at {at:.3f}")


class Trace:
    """Reads MONITOR in a thread of its own while it is on. Connects again whenever Redis hangs up or is away."""

    def __init__(self, server: RedisServer) -> None:
        self.watch = LockWatch()
        self._server = server
        self._on = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._on.set()
        self._thread.join()

    def switch(self, *, on: bool) -> None:
        """Listen, or be quiet."""
        (self._on.set if on else self._on.clear)()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._on.wait()
            self.watch.forget()
            with suppress(OSError):
                self._listen()
            time.sleep(0.05)

    def _listen(self) -> None:
        with socket.create_connection((LOOPBACK, self._server.port), timeout=1) as connection:
            connection.sendall(f"AUTH {self._server.password}\r\nMONITOR\r\n".encode())
            connection.settimeout(0.3)
            begun = b""
            while self._on.is_set() and not self._ending.is_set():
                try:
                    data = connection.recv(1 << 20)
                except TimeoutError:
                    continue
                if not data:
                    return
                *lines, begun = (begun + data).split(b"\r\n")
                self.watch.feed(line.decode(errors="replace") for line in lines)
