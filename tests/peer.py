"""An HTTP peer that misbehaves by a script, for tests of our client."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


def an_answer(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    """An HTTP answer as bytes."""
    fields = {"Content-Length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{n.replace('_', '-')}: {v}" for n, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


#: At the end of an answer: the peer closes the connection after it.
HANG_UP = b"\0hang up"
SILENCE = None

#: What a peer does with a request: it answers with these bytes, with what it is told by somebody else, or not at all.
Reply = bytes | Callable[[bytes], bytes] | None


def passed_on(url: str) -> Callable[[bytes], bytes]:
    """The answer of the system at `url`."""
    host, port = url.removeprefix("http://").split(":")

    def ask(request: bytes) -> bytes:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            return b"".join(iter(lambda: connection.recv(65536), b"")) + HANG_UP

    return ask


def lost(url: str) -> Callable[[bytes], bytes]:
    """The system at `url` does what it is asked, and its answer does not arrive."""

    def ask(request: bytes) -> bytes:
        passed_on(url)(request)
        return HANG_UP

    return ask


@dataclass
class Peer:
    """An HTTP peer that answers by a script, one entry per request."""

    script: list[Reply]
    url: str = ""
    requests: list[bytes] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    connections: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def serve(self, connection: socket.socket) -> None:
        with connection:
            while request := _request(connection):
                self.arrived.append(time.monotonic())
                self.requests.append(request)
                answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                if callable(answer):
                    answer = answer(request)
                if answer is None:
                    self.closing.wait()
                    return
                connection.sendall(answer.removesuffix(HANG_UP))
                if answer.endswith(HANG_UP):
                    return


@contextmanager
def a_peer(*script: Reply) -> Iterator[Peer]:
    """A peer on a port of its own; the last entry of the script is repeated for ever."""
    peer = Peer(list(script))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                peer.connections += 1
                threading.Thread(target=peer.serve, args=(connection,), daemon=True).start()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield peer
        finally:
            peer.closing.set()
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()


def _request(connection: socket.socket) -> bytes:
    """One whole request; empty when the client has closed the connection."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        raw += chunk
    head, _, body = raw.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    wanted = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < wanted:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body
