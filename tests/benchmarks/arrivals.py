"""Orders that arrive on schedule, whatever the server does, each followed until its result can be read.

An open loop: latency counts from the moment an order was due, so that a server that stalls is charged for every order
that it kept from being sent on time (no coordinated omission).
"""

import heapq
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.benchmarks import wire
from tests.benchmarks.load import ACCEPTED, SILENCE_S, LoadFailed

#: Where the id goes in the request that asks for an order.
ID_PLACE: Final = b"00000000-0000-0000-0000-000000000000"
#: From so many a second on, the generator wakes once a tick. Were it to wake for each order, it would take a fifth of a
#: core, and the processor from what it measures 4,000 times a second. Latencies are longer by up to two ticks for it.
CROWD_PER_S: Final = 1_000
TICK_S: Final = 0.001
_QUEUED: Final = (b'"status":"queued"', b'"status": "queued"')


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What became of the arrivals.

    `latencies_s`: of the followed orders, from due to readable result. `lateness_s`: how much later than due the
    requests went out; it is part of the latencies, and tells whether the generator kept up. `refusals_s`: from sending to
    an answer that is no 202. `seconds`: from the first request to the last. `longest_answer_s`: of all orders, from due to
    the answer of the POST.
    """

    latencies_s: Sequence[float]
    lateness_s: Sequence[float]
    statuses: Counter[int]
    accepted: Sequence[str]
    cpu_s: float
    refusals_s: Sequence[float]
    seconds: float
    longest_answer_s: float


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """One POST every 1/`per_second` s; of every `follow_every`th the result is asked for, at once.

    `ask` holds `ID_PLACE`. Where the answer says that the order is queued still, it is asked again `again_after_s` later.
    """

    address: wire.Address
    requests: Sequence[bytes]
    per_second: float
    ask: bytes
    follow_every: int = 1
    again_after_s: float = 0.0
    #: Those who come when so many wait for an answer come late.
    most_connections: int = 12_000

    def run(self) -> Followed:
        """Send all requests and wait for the results. Raises LoadFailed."""
        return _Run(self).to_the_end()


@dataclass(slots=True)
class _Order:
    due: float
    is_followed: bool
    sent: float = 0.0
    asks: bytes = b""
    answer: bytes = b""


@dataclass
class _Run:
    plan: Arrivals
    idle: deque[socket.socket] = field(default_factory=deque)
    sockets: dict[int, socket.socket] = field(default_factory=dict)
    busy: dict[int, _Order] = field(default_factory=dict)
    later: list[tuple[float, int]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    seconds: float = 0.0
    longest_answer: float = 0.0
    answers: list[bytes] = field(default_factory=list)

    def to_the_end(self) -> Followed:
        self.readable = select.epoll()
        cpu_began = time.process_time()
        try:
            self._send_and_follow()
        finally:
            cpu_s = time.process_time() - cpu_began
            self.readable.close()
            for connection in self.sockets.values():
                connection.close()
        return Followed(
            latencies_s=self.latencies,
            lateness_s=self.lateness,
            statuses=Counter(map(wire.status, self.answers)),
            accepted=[wire.order_id(a) for a in self.answers if wire.status(a) == ACCEPTED],
            cpu_s=cpu_s,
            refusals_s=self.refusals,
            seconds=self.seconds,
            longest_answer_s=self.longest_answer,
        )

    def _send_and_follow(self) -> None:
        began = time.monotonic() + 0.01
        sent, total = 0, len(self.plan.requests)
        heard_at = began
        while sent < total or self.busy:
            now = time.monotonic()
            while sent < total and self._may_send() and (due := began + sent / self.plan.per_second) <= now:
                self._post(self.plan.requests[sent], due, is_followed=sent % self.plan.follow_every == 0)
                sent += 1
                self.seconds = time.monotonic() - began
            while self.later and self.later[0][0] <= now:
                _, number = heapq.heappop(self.later)
                self.sockets[number].sendall(self.busy[number].asks)
            is_next = sent < total and self._may_send()
            if events := self._events(began + sent / self.plan.per_second if is_next else None):
                heard_at = time.monotonic()
                for number, _ in events:
                    self._read(number, heard_at)
            elif self.busy and not self.later and time.monotonic() - heard_at > SILENCE_S:
                raise LoadFailed(f"no answer for {SILENCE_S:g} s")

    def _may_send(self) -> bool:
        return bool(self.idle) or len(self.sockets) < self.plan.most_connections

    def _events(self, next_due: float | None) -> list[tuple[int, int]]:
        """What can be read, waited for until something else is due, or until the next tick.

        An epoll waits in whole milliseconds; select on it waits in microseconds.
        """
        if self.plan.per_second >= CROWD_PER_S:
            time.sleep(TICK_S - time.monotonic() % TICK_S)
            return self.readable.poll(0)
        moments = [moment for moment in (next_due, self.later[0][0] if self.later else None) if moment]
        wait_s = min([1.0, *(max(0.0, moment - time.monotonic()) for moment in moments)])
        select.select([self.readable], [], [], wait_s)
        return self.readable.poll(0)

    def _post(self, request: bytes, due: float, *, is_followed: bool) -> None:
        if not self.idle:
            connection = wire.connect(self.plan.address)
            self.sockets[connection.fileno()] = connection
            self.readable.register(connection.fileno(), select.EPOLLIN)
            self.idle.append(connection)
        connection = self.idle.pop()
        self.busy[connection.fileno()] = _Order(due, is_followed)
        connection.sendall(request)
        self.busy[connection.fileno()].sent = time.monotonic()
        self.lateness.append(time.monotonic() - due)

    def _read(self, number: int, now: float) -> None:
        data = self.sockets[number].recv(wire.READ_BYTES)
        if number not in self.busy and not data:
            # Servers close connections that were idle for long.
            self._forget(number)
            return
        order = self.busy[number]
        if not data:
            raise LoadFailed("the server closed a connection")
        order.answer += data
        if not wire.is_whole(order.answer):
            return
        answer, order.answer = order.answer, b""
        if not order.asks:
            self.answers.append(answer)
            self.longest_answer = max(self.longest_answer, now - order.due)
            if wire.status(answer) != ACCEPTED:
                self.refusals.append(now - order.sent)
            if not order.is_followed or wire.status(answer) != ACCEPTED:
                self._free(number)
                return
            order.asks = self.plan.ask.replace(ID_PLACE, wire.order_id(answer).encode())
            self.sockets[number].sendall(order.asks)
        elif any(word in answer for word in _QUEUED):
            heapq.heappush(self.later, (now + self.plan.again_after_s, number))
        elif wire.status(answer) == 200:
            self.latencies.append(now - order.due)
            self._free(number)
        else:
            raise LoadFailed(f"an accepted order can't be read: {answer[:200]!r}")

    def _forget(self, number: int) -> None:
        connection = self.sockets.pop(number)
        self.idle.remove(connection)
        self.readable.unregister(number)
        connection.close()

    def _free(self, number: int) -> None:
        del self.busy[number]
        self.idle.append(self.sockets[number])


def percentile(figures: Sequence[float], share: float) -> float:
    """The smallest figure that so many of them do not exceed (nearest rank). Raises ValueError where there are none."""
    if not figures:
        raise ValueError("no figures")
    ordered = sorted(figures)
    return ordered[max(0, -(-round(share * 1000) * len(ordered) // 1000) - 1)]
