"""What a connection is to its client, and what the processes behind one port are to each other."""

import json
import os
import re
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shop.web.connection import PIPELINED_MAX
from tests.builders import a_sku, wait_until
from tests.raw_http import chunked, connected, exchange, head, order_head, read_reply
from tests.running import System
from workers.proc import is_running
from workers.processes import PartFailedError, run_to_end

ORDER = json.dumps({"items": [{"sku": "X", "quantity": 1}]}).encode()
LENGTH = f"Content-Length: {len(ORDER)}"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Shared by the tests of this module."""
    with System(tmp_path_factory.mktemp("web"), env={"HEAD_TIMEOUT_S": "2"}) as running:
        yield running.start("web")


def answers(web: System, *requests: bytes) -> list[bytes]:
    """What came back on one connection, cut before each status line."""
    with connected(web) as connection:
        connection.sendall(b"".join(requests))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    return re.split(rb"(?=HTTP/1\.1 \d)", received)[1:]


# --- several requests -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, PIPELINED_MAX, 10 * PIPELINED_MAX])
def test_requests_that_are_sent_at_once_are_answered_each_in_its_turn(web: System, count: int) -> None:
    asked = [head(web, "GET /healthz HTTP/1.1", f"X-Request-ID: {n}", close=False) for n in range(count - 1)]
    last = head(web, "GET /healthz HTTP/1.1", f"X-Request-ID: {count - 1}")

    replies = answers(web, *asked, last)

    assert [int(re.findall(rb"x-request-id: (\d+)\r", reply)[0]) for reply in replies] == list(range(count))


def test_a_slow_answer_does_not_let_a_quick_one_overtake_it(web: System) -> None:
    waiting = web.place((a_sku(), 1)).body["id"]

    slow, quick = answers(
        web,
        head(web, f"GET /api/v1/orders/{waiting} HTTP/1.1", "Prefer: wait=1", close=False),
        head(web, "GET /healthz HTTP/1.1"),
    )

    assert waiting.encode() in slow
    assert b'{"status":"ok"}' in quick


def test_an_order_that_comes_with_the_next_in_pieces_of_any_size_is_taken(web: System) -> None:
    for size in (1, 7, 100):
        sent = b"".join(order_head(web, LENGTH, close=is_last) + ORDER for is_last in (False, False, True))
        replies: list[bytes] = []
        with connected(web) as connection:
            for at in range(0, len(sent), size):
                connection.sendall(sent[at : at + size])
            replies = re.split(rb"(?=HTTP/1\.1 \d)", b"".join(iter(lambda: connection.recv(65536), b"")))[1:]

        assert [reply.split(b" ")[1] for reply in replies] == [b"202"] * 3


# --- how it ends ----------------------------------------------------------------------------------


def test_who_sends_no_more_still_gets_its_answer(web: System) -> None:
    with connected(web) as connection:
        connection.sendall(order_head(web, LENGTH, close=False) + ORDER)
        connection.shutdown(socket.SHUT_WR)
        reply = read_reply(connection, 0)

    assert reply.status == 202


def test_who_sends_no_more_in_the_middle_of_a_body_hears_that_it_is_not_whole(web: System) -> None:
    with connected(web) as connection:
        connection.sendall(order_head(web, "Content-Length: 1000") + ORDER)
        connection.shutdown(socket.SHUT_WR)
        reply = read_reply(connection, 0)

    assert (reply.status, reply.problem) == (400, "incomplete-body")


def test_a_client_of_http_1_0_is_answered_and_its_connection_closed(web: System) -> None:
    reply = exchange(web, head(web, "GET /healthz HTTP/1.0", "Connection: keep-alive", close=False))

    assert (reply.status, reply.headers["connection"]) == (200, "close")


def test_an_order_of_a_client_that_would_rather_speak_http_2_is_taken(web: System) -> None:
    # As Java's HttpClient asks by default.
    wish = [
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA",
    ]

    posted = exchange(web, order_head(web, LENGTH, *wish, close=False), ORDER)
    read = exchange(web, head(web, "GET /healthz HTTP/1.1", *wish, close=False))

    assert (posted.status, read.status) == (202, 200)


def test_a_client_that_does_not_read_its_answers_is_cut_off(web: System) -> None:
    document = head(web, "GET /api/openapi.json HTTP/1.1", close=False)
    with connected(web) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                connection.send(document * 100)

        def is_cut_off() -> bool:
            states = Path("/proc/net/tcp").read_text().splitlines()[1:]
            port = f":{connection.getsockname()[1]:04X}"
            return not any(line.split()[2].endswith(port) and line.split()[3] == "01" for line in states)

        wait_until(is_cut_off, timeout_s=15, what="the end of its connection")

    assert web.get("/healthz").status == 200


# --- what a head says -----------------------------------------------------------------------------


def test_who_asks_before_it_sends_its_body_is_told_to_go_on(web: System) -> None:
    with connected(web) as connection:
        connection.sendall(order_head(web, LENGTH, "Expect: 100-continue"))
        told = connection.recv(65536)
        connection.sendall(ORDER)
        reply = read_reply(connection, 0)

    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert reply.status == 202


def test_who_asks_before_it_sends_too_much_is_spared_the_way(web: System) -> None:
    reply = exchange(web, order_head(web, "Content-Length: 2000000", "Expect: 100-continue"))

    assert (reply.status, reply.problem) == (413, "payload-too-large")


@pytest.mark.parametrize(
    "fields",
    [
        ["Transfer-Encoding: Chunked"],
        ["transfer-encoding:CHUNKED"],
        ["Transfer-Encoding:   chunked  "],
        [
            "Transfer-Encoding: chunked",
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AA",
        ],
    ],
    ids=["with a capital", "in capitals", "with blanks around it", "beside a wish for HTTP/2"],
)
def test_a_body_may_come_in_chunks(web: System, fields: list[str]) -> None:
    assert exchange(web, order_head(web, *fields), chunked([ORDER[:9], ORDER[9:]])).status == 202


def test_fields_after_a_body_are_no_part_of_the_head(web: System) -> None:
    key = uuid.uuid4().hex
    trailed = chunked([ORDER])[:-2] + b"Idempotency-Key: another\r\nAuthorization: Bearer nobody\r\n\r\n"

    first = exchange(web, order_head(web, "Transfer-Encoding: chunked", key=key), trailed)
    again = exchange(web, order_head(web, LENGTH, key=key), ORDER)

    assert (first.status, again.status) == (202, 202)
    assert again.headers["idempotency-replayed"] == "true"


def test_an_answer_says_when_it_was_made_and_a_head_alone_how_long_its_body_would_be(web: System) -> None:
    whole = exchange(web, head(web, "GET /api/openapi.json HTTP/1.1"))
    head_alone = exchange(web, head(web, "HEAD /api/openapi.json HTTP/1.1"))

    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", whole.headers["date"])
    assert head_alone.body == b""
    assert int(head_alone.headers["content-length"]) == len(whole.body)


@pytest.mark.parametrize("target", ["http://localhost/healthz", "/%68ealthz", "/healthz?x", "/healthz#y"])
def test_an_address_may_be_written_in_several_ways(web: System, target: str) -> None:
    assert exchange(web, head(web, f"GET {target} HTTP/1.1")).status in (
        {400, 200} if "#" in target else {200}
    )


def test_an_address_that_names_the_whole_server_leads_nowhere(web: System) -> None:
    reply = exchange(web, head(web, "OPTIONS * HTTP/1.1"))

    assert (reply.status, reply.problem) == (404, "not-found")


@pytest.mark.parametrize("path", ["/", "/static/icon.svg", "/admin/login/", "/nowhere", "/favicon.ico"])
def test_a_head_alone_says_of_a_page_what_the_head_of_all_of_it_says(web: System, path: str) -> None:
    replies = [exchange(web, head(web, f"{method} {path} HTTP/1.1")) for method in ("GET", "HEAD")]

    whole, alone = (
        [reply.status, *(reply.headers.get(name) for name in ("content-type", "content-length"))]
        for reply in replies
    )
    assert alone == whole
    assert replies[1].body == b""


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [("1.1", 1, 200), ("1.1", 0, 400), ("1.1", 2, 400), ("1.0", 0, 200), ("1.0", 2, 400)],
)
def test_a_request_names_one_host(web: System, version: str, hosts: int, status: int) -> None:
    lines = [f"GET /healthz HTTP/{version}", *["Host: localhost"] * hosts, "Connection: close", "", ""]

    assert exchange(web, "\r\n".join(lines).encode()).status == status


# --- processes that share a port ------------------------------------------------------------------


def children(web: System) -> set[int]:
    """The processes that answer."""
    return set(web.pids("web")[1:])


def test_a_process_that_is_killed_is_replaced_and_its_port_stays_open(tmp_path: Path) -> None:
    with System(tmp_path) as web:
        (killed,) = children(web.start("web"))

        os.kill(killed, signal.SIGKILL)
        answer = web.get("/healthz")  # waits in the kernel until there is one that takes it

        assert answer.status == 200
        assert killed not in children(web)
        assert "SIGKILL" in web.log("web")


def test_no_process_outlives_its_parent(tmp_path: Path) -> None:
    with System(tmp_path) as web:
        parent, *forked = web.start("web").pids("web")

        os.kill(parent, signal.SIGKILL)

        wait_until(lambda: not any(map(is_running, forked)), what="the end of its children")
        assert forked


def test_where_no_process_starts_nobody_listens_for_long() -> None:
    program = (
        "from workers import prefork\n"
        "def fail(listener): raise OSError('it can not start')\n"
        "prefork.serve(fail, prefork.listen('127.0.0.1', 0, 1), part='web', processes=2, stop_within_s=5)\n"
    )

    with pytest.raises(PartFailedError, match="no process starts"):
        run_to_end(["python", "-c", program], meanwhile=patience(20))


def test_a_process_that_fails_now_and_then_is_replaced_as_often_as_it_does(tmp_path: Path) -> None:
    # Ten false starts, but never five of them while nobody has lasted.
    program = (
        "import os, pathlib, time\n"
        "from workers import prefork\n"
        "prefork.START_S = 0.0\n"
        f"starts = pathlib.Path({str(tmp_path / 'starts')!r})\n"
        "def fail(listener):\n"
        "    with starts.open('a') as told: told.write('x')\n"
        "    if starts.stat().st_size == 10: os.kill(os.getppid(), 15); time.sleep(60)\n"
        "    raise OSError('it fails')\n"
        "prefork.serve(fail, prefork.listen('127.0.0.1', 0, 1), part='web', processes=1, stop_within_s=5)\n"
    )

    run_to_end(["python", "-c", program], meanwhile=patience(20))

    assert (tmp_path / "starts").read_text() == 10 * "x"


def patience(seconds: float) -> Callable[[], None]:
    """What raises once so much time has passed."""
    deadline = time.monotonic() + seconds

    def look() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not over within {seconds} s")

    return look


def test_help_needs_no_settings() -> None:
    assert "--workers" in run_to_end(["python", "-m", "shop.web", "--help"], env={"SECRET_KEY": ""})
