"""What PostgreSQL clients ask for, read from the bytes they send (PostgreSQL documentation, 54.7 Message Formats)."""

import re
from typing import Final

_LENGTH_BYTES: Final = 4
#: Codes of the first messages, which have no type: requests for encryption, after which another one comes.
_ENCRYPTION: Final = (80877103, 80877104)
_WRITES: Final = re.compile(rb"\b(?:INSERT INTO|UPDATE shop_|COMMIT)")


class CommitWatch:
    """Looks at one connection's commands for the ones at whose end PostgreSQL commits something."""

    def __init__(self) -> None:
        self._unread = b""
        self._is_started = False
        self._writing: set[bytes] = set()

    def sees_commit(self, data: bytes) -> bool:
        """Whether a statement that writes is run by these bytes, which follow those seen before."""
        self._unread += data
        found = False
        while message := self._next():
            kind, body = message
            found |= self._is_write(kind, body)
        return found

    def _next(self) -> tuple[bytes, bytes] | None:
        """The next whole message: its type, empty at the start of the connection, and its body."""
        head = 1 if self._is_started else 0
        if len(self._unread) < head + _LENGTH_BYTES:
            return None
        size = head + int.from_bytes(self._unread[head : head + _LENGTH_BYTES], "big")
        if len(self._unread) < size:
            return None
        kind, body = self._unread[:head], self._unread[head + _LENGTH_BYTES : size]
        self._unread = self._unread[size:]
        if not self._is_started:
            self._is_started = int.from_bytes(body[:4], "big") not in _ENCRYPTION
        return kind, body

    def _is_write(self, kind: bytes, body: bytes) -> bool:
        if kind == b"Q":
            return _WRITES.search(body) is not None
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            (self._writing.add if _WRITES.search(text) else self._writing.discard)(name)
        if kind == b"B":
            return body.split(b"\0", 2)[1] in self._writing
        return False


def ends_ready(data: bytes) -> bool:
    """Whether a reply ends with ReadyForQuery: PostgreSQL has done all that it was asked."""
    return data[-6:-1] == b"Z\0\0\0\5"
