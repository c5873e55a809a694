"""Each row of the table of HTTP input (`tests/http_inputs.py`) in one piece, byte by byte, and cut in two."""

import asyncio
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import pytest

from shop.web import connection
from shop.web.connection import Connection
from tests.http_inputs import TABLE, Outcome, Row, seen
from tests.serving import Served, serving, statuses

#: The parser that the table was last looked through for.
HTTPTOOLS: Final = "0.9.0"


#: Bytes of rows that are sent in pieces, too.
LONG: Final = 1_000


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until a condition comes true."""
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition did not come true")


async def exchange(served: Served, pieces: Sequence[bytes]) -> Outcome:
    """Have a connection receive these, each by itself, and then no more."""
    served.heard.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    await until(lambda: served.server.connections)
    (receiving,) = served.server.connections
    for piece in pieces:
        receiving.data_received(piece)
        await asyncio.sleep(0)
    writer.write_eof()
    received = await reader.read()
    writer.close()
    await until(lambda: not served.server.connections)
    return [seen(request) for request in served.heard], statuses(received)


def outcomes(served: Served, sent: Iterable[Sequence[bytes]]) -> list[Outcome]:
    """What comes of each of these, one after the other."""

    async def all_of_them() -> list[Outcome]:
        async with asyncio.timeout(30):
            return [await exchange(served, pieces) for pieces in sent]

    return asyncio.run_coroutine_threadsafe(all_of_them(), served.server.loop).result()


def ways(sent: bytes) -> Iterator[list[bytes]]:
    """In one piece, in single bytes, and cut in two at some places."""
    yield [sent]
    if len(sent) <= LONG:
        yield [sent[at : at + 1] for at in range(len(sent))]
        for at in range(1, len(sent), 11):
            yield [sent[:at], sent[at:]]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Shared by all rows."""
    with serving() as running:
        yield running
    assert running.errors == []
    assert running.server.kept_bytes == 0


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_each_row_is_taken_for_the_requests_that_it_has_however_it_is_cut(served: Served, row: Row) -> None:
    whole, *in_pieces = outcomes(served, ways(row.sent))

    assert whole == row.outcome
    assert all(each == row.outcome or (row.may_be_refused and each == ([], [400])) for each in in_pieces)


def with_a_lenient_parser(patch: pytest.MonkeyPatch) -> None:
    """One that takes a length and chunks."""

    class Lenient(connection.HttpRequestParser):
        def __init__(self, protocol: Any) -> None:
            super().__init__(protocol)
            self.set_dangerous_leniencies(lenient_chunked_length=True)

    patch.setattr(connection, "HttpRequestParser", Lenient)


def with_bodies_in_any_coding(patch: pytest.MonkeyPatch) -> None:
    """The last one alone counts."""
    patch.setattr(Connection, "_is_plainly_framed", lambda _: True)


def with_any_host(patch: pytest.MonkeyPatch) -> None:
    """Whatever is sent as Host, and as often."""
    patch.setattr(Connection, "_find_host", lambda *_: None)


def with_any_name_as_host(patch: pytest.MonkeyPatch) -> None:
    """Whatever is sent once as Host."""
    patch.setattr(connection, "_HOST", re.compile(".*"))


def with_any_expectation(patch: pytest.MonkeyPatch) -> None:
    """Each is taken for one of `100 Continue`."""
    patch.setattr(Connection, "_waits_to_send", lambda _: True)


def with_endless_addresses(patch: pytest.MonkeyPatch) -> None:
    """However long."""
    patch.setattr(connection, "TARGET_BYTES_MAX", 10**9)


def with_bodies_of_get(patch: pytest.MonkeyPatch) -> None:
    """Kept, whatever the method."""
    patch.setattr(connection, "METHODS_WITH_BODY", {"GET", "POST"})


@pytest.mark.parametrize(
    ("unguarded", "name"),
    [
        (with_a_lenient_parser, "a length before chunks"),
        (with_bodies_in_any_coding, "the coding b'identity, chunked'"),
        (with_any_host, "two Hosts"),
        (with_any_host, "the absolute form"),
        (with_any_name_as_host, "the Host b'a@b'"),
        (with_any_name_as_host, "the absolute form with a user"),
        (with_any_expectation, "one that is unknown"),
        (with_endless_addresses, "8,193 bytes"),
        (with_bodies_of_get, "a body of GET, which is thrown away"),
    ],
)
def test_without_its_guard_a_row_would_have_another_outcome(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    unguarded: Callable[[pytest.MonkeyPatch], None],
    name: str,
) -> None:
    (row,) = (each for each in TABLE if each.name == name)
    unguarded(monkeypatch)

    found = outcomes(served, [[row.sent]])
    served.server.known_hosts = []

    assert found != [row.outcome]


def test_no_two_rows_have_one_name() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE)


def test_the_table_was_looked_through_for_the_parser_that_is_used() -> None:
    used = importlib.metadata.version("httptools")

    assert used == HTTPTOOLS, (
        f"httptools is {used} now. Read what has changed in it and in its llhttp, add a row for each kind of input that it"
        " is about, and only then name the new version in HTTPTOOLS."
    )
