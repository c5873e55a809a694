"""What open live boards cost: orders per second with a hundred of them and without, and CPU for each and second."""

import http.cookiejar
import re
import select
import socket
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from statistics import median
from typing import Final

from tests.benchmarks import wire
from tests.benchmarks.bench import Bench
from tests.benchmarks.growth import ROUND_S, case, keep
from tests.benchmarks.load import Apart, LoadFailed
from tests.benchmarks.meter import Meter
from tests.benchmarks.reserva import Reserva
from tests.benchmarks.rounds import point

VIEWERS: Final = 100
EVERY_S: Final = 1.0
#: Rounds with boards and without, in turn.
TIMES: Final = 5
IDLE_S: Final = 10.0
GIVE_UP_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Viewers:
    """Boards that are open: a connection each, asked for the newest figures once a second, until the process is ended.

    Says with one byte that all have had an answer.
    """

    address: wire.Address
    request: bytes
    viewers: int = VIEWERS

    def run(self) -> None:
        """Look for ever. Raises LoadFailed."""
        began = time.monotonic()
        boards = [wire.connect(self.address) for _ in range(self.viewers)]
        due = [began + at * EVERY_S / self.viewers for at in range(self.viewers)]
        answering: dict[int, int] = {}
        answered: set[int] = set()
        readable = select.epoll()
        for board in boards:
            readable.register(board.fileno(), select.EPOLLIN)
        while True:
            now = time.monotonic()
            for at, board in enumerate(boards):
                if due[at] <= now:
                    if board.fileno() in answering:
                        raise LoadFailed("a board had no answer within its second")
                    board.sendall(self.request)
                    answering[board.fileno()] = at
                    due[at] += EVERY_S if answered else GIVE_UP_S
            for number, _ in readable.poll(max(0.0, min(due) - time.monotonic())):
                at = answering.pop(number)
                _read(boards[at])
                if at not in answered:
                    answered.add(at)
                    due[at] = time.monotonic() + EVERY_S
                    if len(answered) == self.viewers:
                        sys.stdout.buffer.write(b".")
                        sys.stdout.buffer.flush()


def _read(board: socket.socket) -> None:
    data = b""
    while not data or not wire.is_whole(data):
        data += board.recv(wire.READ_BYTES)
    if wire.status(data) not in {200, 304}:
        raise LoadFailed(f"a board heard {data[:200]!r}")


def boards(bench: Bench) -> None:
    """Rounds with a hundred open boards and without, in turn; then the boards alone."""
    system = bench.reserva("open boards")
    spread = case(system)
    bench.warm_up(spread)
    look = Viewers(address=system.address, request=_request(system))
    without, beside = [], []
    for _ in range(TIMES):
        without.append(bench.round(spread, ROUND_S))
        with Apart(look) as viewers:
            viewers.await_sign()
            beside.append(bench.round(spread, ROUND_S))
            if viewers.is_done(within_s=0):
                viewers.result()
    keep(bench, "boards", point(0, without))
    keep(bench, "boards", point(VIEWERS, beside))
    ratio = median(one.orders_per_s for one in beside) / median(one.orders_per_s for one in without)
    with Apart(look) as viewers:
        viewers.await_sign()
        meter = Meter(system.pids)
        time.sleep(IDLE_S)
        looking = meter.read()
    meter = Meter(system.pids)
    time.sleep(IDLE_S)
    idle = meter.read()
    costs_us = {
        part: 1e6 * (looking[part] - idle[part]) / (VIEWERS * IDLE_S) for part in ("web", "redis", "postgres")
    }
    told = ", ".join(f"{part} {us:.0f}" for part, us in costs_us.items())
    bench.found.notes.append(
        f"{VIEWERS} open boards: {ratio:.3f} of the orders/s without; {told} microseconds of CPU per board and second"
    )
    bench.say(bench.found.notes[-1])
    bench.stop(system.name)


def _request(system: Reserva) -> bytes:
    """What a board of a signed-in operator asks."""
    headers = {"Cookie": f"sessionid={_signed_in(system)}"}
    return wire.request("GET", "/live/figures?recent", system.address, headers)


def _signed_in(system: Reserva) -> str:
    status = system.status()
    cookies = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    address = f"{status['web_url']}/admin/login/?next=/healthz"
    with browser.open(address, timeout=20) as page:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.read().decode())
    assert token is not None
    form = {
        "username": status["staff_user"],
        "password": status["staff_password"],
        "csrfmiddlewaretoken": token.group(1),
    }
    data = urllib.parse.urlencode(form).encode()
    with browser.open(urllib.request.Request(address, data, {"Referer": status["web_url"]}), timeout=20):
        found = {cookie.name: cookie.value for cookie in cookies}
    return str(found["sessionid"])
