"""A connection in each of its states: whatever a client does then, and does not do, it ends, and nothing else suffers."""

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
import structlog

from shop.web import connection as one_connection
from shop.web import server
from shop.web.connection import Connection
from shop.web.http import Answer, Request
from tests.builders import wait_until
from tests.serving import (
    BODY_BYTES_MAX,
    HEAD_TIMEOUT_S,
    MUCH,
    Served,
    all_of,
    connected,
    get,
    serving,
    statuses,
)


@pytest.fixture
def served() -> Iterator[Served]:
    """A server about which asyncio has nothing to say when the test is over."""
    with serving() as running:
        yield running
    assert running.errors == []
    assert running.server.kept_bytes == 0


# --- answers that can't be given ------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/split", "/cancelled"])
def test_who_can_not_be_answered_is_hung_up_on_at_once(path: str) -> None:
    with serving() as served, connected(served) as connection:
        connection.sendall(get(path))

        assert all_of(connection) == b""
        wait_until(lambda: not served.connections, what="the end of the connection")


# --- in which order, and which answer -------------------------------------------------------------


def test_a_method_that_nobody_knows_is_not_taken_for_the_request_before_it(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(get("/one") + get("/two", method="F~O"))
        all_of(connection)

    assert [(request.method, request.path) for request in served.heard] == [("GET", "/one")]


def test_the_rest_of_a_method_that_nobody_knows_is_no_request(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(get("/one") + b"PO")
        connection.recv(1000)
        connection.sendall(get("/two"))
        all_of(connection)

    assert [(request.method, request.path) for request in served.heard] == [("GET", "/one")]


def test_nonsense_after_requests_that_wait_is_refused_after_their_answers(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(get(f"/bytes/{MUCH}"))
        wait_until(lambda: served.heard, what="the request")
        connection.sendall(get("/two") + b"nonsense\r\n\r\n")
        received = all_of(connection)

    assert statuses(received) == [200, 200, 400]
    assert b"<GET /two>" in received


def test_who_sends_no_more_and_reads_late_still_gets_all_its_answers(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(get(f"/bytes/{MUCH}") + get("/two"))
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: served.heard, what="the request")
        received = all_of(connection)

    assert b"<GET /two>" in received


def test_an_answer_that_may_have_no_body_has_none(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(get("/unmodified") + get("/two"))
        connection.shutdown(socket.SHUT_WR)
        received = all_of(connection)

    assert statuses(received) == [304, 200]
    assert b"a body that is none" not in received


def test_an_answer_is_read_to_its_end_by_a_slow_client_that_sends_no_more(served: Served) -> None:
    # More than what lingers on a connection otherwise, less than a client may take to read.
    with connected(served) as connection:
        connection.sendall(get(f"/bytes/{MUCH}"))
        connection.shutdown(socket.SHUT_WR)
        began = served.server.loop.time()
        received = bytearray()
        while part := connection.recv(100_000 if served.server.loop.time() - began < 0.8 else 1_000_000):
            received += part

    assert len(received) > MUCH


def test_many_wishes_for_another_protocol_at_once_are_all_declined(served: Served) -> None:
    wish = get("/", "Connection: Upgrade", "Upgrade: h2c")
    with connected(served) as connection:
        threading.Thread(
            target=connection.sendall, args=[3000 * wish + get("/end", "Connection: close")]
        ).start()
        received = all_of(connection)

    assert statuses(received) == [200] * 3001


def test_what_a_request_says_in_its_context_does_not_reach_the_next_one() -> None:
    told = []

    async def answer(request: Request) -> Answer:
        told.append(dict(structlog.contextvars.get_contextvars()))
        structlog.contextvars.bind_contextvars(order=request.path)
        await asyncio.sleep(0)
        return Answer()

    with serving(answer) as served, connected(served) as connection:
        connection.sendall(get("/one") + get("/two") + get("/three", "Connection: close"))
        all_of(connection)

    assert told == [{}, {}, {}]


def test_a_client_of_http_1_0_is_not_told_to_go_on(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx")
        received = all_of(connection)

    assert statuses(received) == [200]


def test_an_address_in_full_may_have_no_path(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(get("http://localhost", "Connection: close"))

        assert b"<GET />" in all_of(connection)


def test_a_client_whose_next_requests_are_not_taken_any_more_reads_its_last_answer_in_peace(
    served: Served,
) -> None:
    with connected(served) as connection:
        connection.sendall(get("/waits") + 300 * get("/next") + b"GET")
        wait_until(lambda: served.heard, what="the first request")
        served.server.is_draining = True
        served.may_answer.set()
        received = b""
        while part := connection.recv(
            1_000
        ):  # were it reset, some systems would throw away what had come before
            received += part
            connection.sendall(get("/still-sending"))

    assert statuses(received) == [200]


# --- connections that stay ------------------------------------------------------------------------


def test_who_sends_requests_and_reads_no_answer_is_cut_off_whatever_else_it_sends(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(get(f"/bytes/{MUCH}"))
        wait_until(lambda: served.heard, what="the request")
        wait_until(lambda: next(iter(served.server.connections))._is_full, what="a client that does not read")
        connection.sendall(get("/more"))

        wait_until(lambda: not served.connections, timeout_s=5, what="the end of the connection")


def test_without_a_time_limit_for_readers_such_a_connection_stays(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "is_late", lambda connection, now: connection.deadline < now)
    with connected(served) as connection:
        connection.sendall(get(f"/bytes/{MUCH}"))
        wait_until(lambda: served.heard, what="the request")
        wait_until(lambda: next(iter(served.server.connections))._is_full, what="a client that does not read")
        connection.sendall(get("/more"))

        with pytest.raises(AssertionError, match="the end of the connection"):
            wait_until(
                lambda: not served.connections, timeout_s=2 * HEAD_TIMEOUT_S, what="the end of the connection"
            )


def test_one_connection_too_many_is_refused_and_the_others_are_served(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    with connected(served) as first, connected(served) as second:
        wait_until(lambda: served.connections == 2, what="both connections")

        with connected(served) as third:
            refused = statuses(all_of(third))

        for connection in (first, second):
            connection.sendall(get("/", "Connection: close"))
        answers = [statuses(all_of(connection)) for connection in (first, second)]
    wait_until(lambda: not served.connections, what="the end of all connections")
    with connected(served) as later:
        later.sendall(get("/", "Connection: close"))
        answers.append(statuses(all_of(later)))

    assert refused == [503]
    assert answers == [[200]] * 3


def test_without_a_limit_every_connection_takes_a_place(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 10**9)
    with ExitStack() as opened:
        for _ in range(20):
            opened.enter_context(connected(served))

        wait_until(lambda: served.connections == 20, what="all connections")


#: How a body begins that is not small, and how it ends.
BEGUN = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + 60_000 * b"x"
END = 40_000 * b"x"


def keeps(served: Served, count: int) -> bool:
    """Whether so many bytes of bodies are counted, and a little for heads and parts."""
    return count <= served.server.kept_bytes < count + 10_000


def test_bodies_that_never_end_do_not_fill_the_memory_and_keep_no_small_order_out(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_connection, "KEPT_BYTES_MAX", 150_000)
    with connected(served) as first, connected(served) as second, connected(served) as buyer:
        for number, connection in enumerate((first, second), start=1):
            connection.sendall(BEGUN)
            wait_until(lambda: keeps(served, number * 60_000), what="what was sent")  # noqa: B023
        with connected(served) as third:
            third.sendall(BEGUN)
            refused = third.recv(1_000)
        has_kept = keeps(served, 120_000)

        buyer.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\norder"
        )
        served_at_once = statuses(all_of(buyer))
        second.close()
        wait_until(lambda: keeps(served, 60_000), what="room for the rest of the first one")
        first.sendall(END + get("/", "Connection: close"))
        ended = statuses(all_of(first))

    assert (statuses(refused), served.refused[0]) == ([503], "unavailable")
    assert has_kept
    assert served_at_once == [200]
    assert ended == [200, 200]


def test_bodies_whose_turn_has_not_come_count_as_well(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_connection, "KEPT_BYTES_MAX", 150_000)
    with connected(served) as patient, connected(served) as other:
        patient.sendall(get("/waits") + BEGUN + END)
        wait_until(lambda: keeps(served, 100_000), what="the second request")

        other.sendall(BEGUN)
        refused = statuses(other.recv(1_000))
        served.may_answer.set()
        patient.sendall(get("/", "Connection: close"))
        answered = statuses(all_of(patient))

    assert (refused, answered) == ([503], [200, 200, 200])
    assert served.refused == ["unavailable"]


def test_a_body_counts_until_it_is_answered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_connection, "KEPT_BYTES_MAX", 150_000)
    with connected(served) as patient, connected(served) as other:
        patient.sendall(BEGUN.replace(b"/", b"/waits", 1) + END)
        wait_until(lambda: served.heard, what="the request")
        has_kept = keeps(served, 100_000)

        other.sendall(BEGUN)
        refused = statuses(other.recv(1_000))
        served.may_answer.set()
        patient.sendall(get("/", "Connection: close"))
        answered = statuses(all_of(patient))

    assert (has_kept, refused, answered) == (True, [503], [200, 200])


def test_were_it_counted_until_its_answer_begins_any_number_could_be_kept(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Connection._begin
    monkeypatch.setattr(
        Connection, "_begin", lambda one, request: (one._release(request), begin(one, request))
    )
    with connected(served) as patient:
        patient.sendall(BEGUN.replace(b"/", b"/waits", 1) + END)
        wait_until(lambda: served.heard, what="the request")

        assert keeps(served, 0)


def test_beyond_the_limit_a_connection_may_have_one_small_request_behind_another(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\norder"
    with connected(served) as large, connected(served) as other:
        large.sendall(BEGUN)
        wait_until(lambda: keeps(served, 60_000), what="what was sent")
        monkeypatch.setattr(one_connection, "KEPT_BYTES_MAX", 60_000)
        other.sendall(get("/waits") + 3 * small)
        wait_until(lambda: served.heard, what="the first request")
        served.may_answer.set()
        answered = statuses(all_of(other))

    assert answered == [200, 200, 503]


#: A request with a body that nobody asks for, while it is answered.
GET_WITH_BODY = (
    b"GET /waits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + 1_000_000 * b"x"
)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS"])
def test_a_body_is_not_kept_where_none_is_due(served: Served, method: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(GET_WITH_BODY.replace(b"GET", method, 1))
        wait_until(lambda: served.heard, what="the request")

        assert keeps(served, 0)
    assert served.heard[0].body == b""


def test_were_such_bodies_kept_they_would_count(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_connection, "METHODS_WITH_BODY", {"GET"})
    with connected(served) as connection:
        connection.sendall(GET_WITH_BODY)
        wait_until(lambda: served.heard, what="the request")

        assert served.server.kept_bytes > 1_000_000


def test_without_a_limit_of_memory_all_of_what_never_ends_is_kept(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_connection, "KEPT_BYTES_MAX", 10**12)
    with ExitStack() as opened:
        for _ in range(10):
            opened.enter_context(connected(served)).sendall(BEGUN)

        wait_until(lambda: keeps(served, 600_000), what="all that was sent")


def test_who_reads_late_has_no_more_time_for_its_body(served: Served) -> None:
    with connected(served) as connection:
        begun = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf"
        connection.sendall(get(f"/bytes/{MUCH}") + begun)
        wait_until(lambda: served.heard, what="the request")

        received = all_of(connection)  # until it is hung up on

    assert statuses(received) == [200, 408]


@pytest.mark.parametrize("headers", [(), ("Connection: close",)])
def test_who_leaves_the_end_of_an_answer_unread_is_cut_off(served: Served, headers: tuple[str, ...]) -> None:
    with connected(served) as connection:
        unread = 0
        while not unread:  # as many as the kernel takes, and the end of one more
            count = len(served.heard)
            connection.sendall(get("/bytes/20000"))
            wait_until(lambda: len(served.heard) > count, what="the request")  # noqa: B023 - waits for this one
            (open_one,) = served.server.connections
            unread = open_one._transport.get_write_buffer_size()
        connection.sendall(get("/bytes/1000", *headers))

        wait_until(lambda: not served.connections, timeout_s=5, what="the end of the connection")


def test_who_sends_no_end_of_the_fields_after_its_body_is_refused_soon(served: Served) -> None:
    trailer = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
    with connected(served) as connection:
        connection.sendall(trailer)
        sent = 0
        with suppress(ConnectionError):
            while not served.refused and sent < 20_000_000:
                connection.sendall(b"x" * 100_000)
                sent += 100_000
        all_of(connection)

    assert served.refused == ["payload-too-large"]


def test_a_head_may_be_as_large_in_pieces_as_in_one(served: Served) -> None:
    head = get("/", *(f"X{n}: " + "x" * 5_000 for n in range(10)), "Connection: close")
    with connected(served) as connection, connected(served) as other:
        for at in range(0, len(head), 5_000):
            connection.sendall(head[at : at + 5_000])
            other.sendall(get("/"))
            other.recv(1_000)  # by now that piece has been read, too
        received = all_of(connection)

    assert statuses(received) == [200]


def test_many_requests_that_come_in_one_piece_are_no_head_without_end(served: Served) -> None:
    asked = get("/", "X: " + "x" * 400)
    pieces = [asked[:9], asked[9:] + 400 * asked + asked[:9], get("/", "Connection: close")[9:]]
    with connected(served) as connection:
        wait_until(lambda: served.connections, what="the connection")
        (open_one,) = served.server.connections
        for piece in pieces:
            served.server.loop.call_soon_threadsafe(open_one.data_received, piece)
        received = all_of(connection)

    assert statuses(received) == [200] * 402


# --- memory ---------------------------------------------------------------------------------------


def test_what_a_client_sent_that_left_in_the_middle_is_forgotten_with_its_connection(served: Served) -> None:
    gc.disable()
    try:
        for _ in range(50):
            with connected(served) as connection:
                connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx")
                wait_until(lambda: served.connections, what="the connection")
            wait_until(lambda: not served.connections, what="its end")
        kept = sum(isinstance(each, Connection) for each in gc.get_objects())
    finally:
        gc.enable()

    assert kept < 5


@pytest.mark.parametrize(
    "large",
    [
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
        get("/", "X: " + "x" * 60_000),
    ],
    ids=["by their bodies", "by their heads"],
)
def test_of_large_requests_that_wait_no_more_are_read_than_one_may_hold(served: Served, large: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(get("/waits"))
        wait_until(lambda: served.heard, what="the first")
        sending = threading.Thread(target=connection.sendall, args=[60 * large])
        sending.start()
        waiting = next(iter(served.server.connections))._waiting
        wait_until(lambda: next(iter(served.server.connections))._is_paused, what="no more being read")
        held = sum(request.kept_bytes for request in waiting)
        served.may_answer.set()
        received = bytearray()
        while len(statuses(bytes(received))) < 61:
            received += connection.recv(1_000_000)
        sending.join()

    assert held <= 3 * BODY_BYTES_MAX
    assert statuses(bytes(received)) == [200] * 61
