"""What a crowd at the shop's pages costs orders: latency at half load, with floods of visitors and sign-ins and without.

Each flood is sent at once, by a process of its own, while orders arrive at a steady rate. Rounds are in turn.
"""

import re
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final
from urllib.parse import urlencode

from tests.benchmarks import contest, latency, traffic, wire
from tests.benchmarks.bench import Bench
from tests.benchmarks.latency import Latency
from tests.benchmarks.load import Apart
from tests.benchmarks.reserva import Reserva

SHARE: Final = 0.5
SECONDS: Final = 10.0
FOLLOWED: Final = 10
#: When the flood begins, in seconds after the process that sends it was started; and how long its answers are waited for.
AFTER_S: Final = 3.0
GIVE_UP_S: Final = 30.0
TIMES: Final = 5
VISITORS, SIGN_INS = 600, 200


@dataclass(frozen=True, kw_only=True)
class Flood:
    """Requests that are sent at once, each on a connection of its own; tells how many had which status."""

    address: wire.Address
    requests: Sequence[bytes]

    def run(self) -> Counter[int]:
        """Send them and read the answers; 0 stands for one that did not come."""
        time.sleep(AFTER_S)
        connections = [wire.connect(self.address) for _ in self.requests]
        readable = select.epoll()
        for connection, request in zip(connections, self.requests, strict=True):
            readable.register(connection.fileno(), select.EPOLLIN)
            connection.sendall(request)
        waiting = {connection.fileno(): connection for connection in connections}
        statuses: Counter[int] = Counter()
        until = time.monotonic() + GIVE_UP_S
        while waiting and time.monotonic() < until:
            for number, _ in readable.poll(1.0):
                statuses[_status_of(waiting.pop(number))] += 1
                readable.unregister(number)
        statuses[0] += len(waiting)
        for connection in connections:
            connection.close()
        return statuses


def _status_of(connection: socket.socket) -> int:
    data = connection.recv(wire.READ_BYTES)
    return wire.status(data) if data else 0


def crowds(bench: Bench) -> None:
    """Half load alone, with 600 visitors at once, and with 200 wrong sign-ins at once, in turn."""
    system = bench.reserva(contest.RESERVA)
    per_second = SHARE * contest.maximum(bench)
    floods: Mapping[str, Callable[[], Sequence[bytes]]] = {
        "alone": lambda: (),
        f"{VISITORS} visitors": partial(_visits, system),
        f"{SIGN_INS} sign-ins": partial(_sign_ins, system),
    }
    found: dict[str, list[Latency]] = {name: [] for name in floods}
    for _ in range(TIMES):
        for name, requests in floods.items():
            bench.rest()
            found[name].append(_round(bench, system, name, per_second, requests()))
    alone = median(one.p99_ms for one in found["alone"])
    for name, rounds in found.items():
        p50, p99 = median(one.p50_ms for one in rounds), median(one.p99_ms for one in rounds)
        bench.found.notes.append(
            f"half load, {name}: p50 {p50:.1f}, p99 {p99:.1f} ms ({p99 - alone:+.1f} to alone; rounds "
            f"{', '.join(f'{one.p99_ms:.0f}' for one in rounds)}); the longest POST took "
            f"{max(one.longest_answer_ms for one in rounds):.0f} ms"
        )


def _round(bench: Bench, system: Reserva, name: str, per_second: float, requests: Sequence[bytes]) -> Latency:
    with Apart(Flood(address=system.address, requests=requests)) as flood:
        found = latency.measure(
            system,
            traffic.spread(),
            tag=bench.tag(),
            scenario=f"half load, {name}",
            per_second=per_second,
            seconds=SECONDS,
            follow_every=FOLLOWED,
            again_after_s=contest.AGAIN_AFTER_S,
        )
        answered: Counter[int] = flood.result()
    bench.found.latency.append(found)
    bench.wrong(name, found.faults)
    bench.say(
        f"{name}, {per_second:,.0f}/s: p50 {found.p50_ms:.1f}, p99 {found.p99_ms:.1f} ms, the longest POST "
        f"{found.longest_answer_ms:.0f} ms; {dict(answered)}"
    )
    return found


def _visits(system: Reserva) -> Sequence[bytes]:
    return [wire.request("GET", "/", system.address, {"Connection": "close"})] * VISITORS


def _sign_ins(system: Reserva) -> Sequence[bytes]:
    """Wrong passwords, with the token of a form that was opened before."""
    with wire.connect(system.address) as connection:
        connection.sendall(wire.request("GET", "/admin/login/", system.address, {"Connection": "close"}))
        head = connection.recv(wire.READ_BYTES).decode("latin-1")
    found = re.search(r"csrftoken=([^;]+)", head)
    assert found, head
    form = {"csrfmiddlewaretoken": found[1], "username": "operator", "password": "wrong", "next": "/admin/"}
    body = urlencode(form).encode()
    headers = {
        "Connection": "close",
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": str(len(body)),
        "Cookie": f"csrftoken={found[1]}",
    }
    return [wire.request("POST", "/admin/login/", system.address, headers) + body] * SIGN_INS
