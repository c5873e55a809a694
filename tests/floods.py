"""Very many requests at the same moment, from this or that address of this machine, and what can be seen meanwhile."""

import math
import re
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from tests.raw_http import Reply, read_reply
from tests.running import System

#: Addresses of the loopback interface (RFC 1122, 3.2.1.3): two clients that are not one.
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"


def get(path: str, *headers: str) -> bytes:
    """A visitor's request."""
    return "\r\n".join(
        [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    ).encode()


def ask(system: System, raw: bytes, source: str = HERE, timeout_s: float = 30) -> Reply:
    """One request from an address, and its answer."""
    with _connection(system, source, timeout_s) as connection:
        began = time.monotonic()
        connection.sendall(raw)
        return read_reply(connection, began)


def sign_in(system: System, name: str, password: str, source: str = HERE) -> bytes:
    """A request that signs in: with the token of a form that was opened before."""
    form = ask(system, get("/admin/login/"), source)
    token = re.search(r"csrftoken=([^;]+)", form.headers["set-cookie"])
    assert token is not None, form
    body = urlencode(
        {"csrfmiddlewaretoken": token[1], "username": name, "password": password, "next": "/admin/"}
    )
    lines = [
        "POST /admin/login/ HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        f"Cookie: csrftoken={token[1]}",
    ]
    lines += ["Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


def session_of(signed_in: Reply) -> str:
    """The header that a browser sends after it was signed in."""
    session = re.search(r"sessionid=([^;]+)", signed_in.headers.get("set-cookie", ""))
    assert session is not None, signed_in
    return f"Cookie: sessionid={session[1]}"


@dataclass
class Flood:
    """Requests that were sent at once. `replies`: once they are all there. `most_threads`: of a web process, as seen."""

    system: System
    connections: list[socket.socket]
    began: float
    replies: list[Reply] = field(default_factory=list)
    most_threads: int = 0

    def read(self, enough_threads: float = math.inf) -> list[Reply]:
        """Read every answer, in the order in which they come, unless so many threads are seen before."""
        waiting = {connection.fileno(): connection for connection in self.connections[len(self.replies) :]}
        poll = select.poll()
        for number in waiting:
            poll.register(number, select.POLLIN)
        while waiting and self.most_threads < enough_threads:
            self.most_threads = max(self.most_threads, threads(self.system))
            for number, _ in poll.poll(1000):
                poll.unregister(number)
                self.replies.append(read_reply(waiting.pop(number), self.began))
        return self.replies


@contextmanager
def flood(system: System, requests: Sequence[bytes], source: str = HERE) -> Iterator[Flood]:
    """Send them all, each on a connection of its own."""
    with ExitStack() as stack:
        connections = [stack.enter_context(_connection(system, source, 30)) for _ in requests]
        for connection, raw in zip(connections, requests, strict=True):
            connection.sendall(raw)
        yield Flood(system, connections, time.monotonic())


def threads(system: System) -> int:
    """Threads of the web process that has most."""
    return max(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in system.pids("web"))


def _connection(system: System, source: str, timeout_s: float) -> socket.socket:
    return socket.create_connection(("127.0.0.1", system.port), timeout=timeout_s, source_address=(source, 0))
