"""Load from a process of its own, so that what it costs is counted apart from what it measures.

It is our own generator because the ones that systems bring differ, cannot send each request once, and do not tell
which orders were accepted. One thread, one epoll, requests built beforehand, answers looked into afterwards: about
15 microseconds of CPU per request, most of them the kernel's.
"""

import gc
import pickle
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from tests.benchmarks import wire

#: A server that says nothing for so long is not slow but stuck.
SILENCE_S: Final = 30.0
ACCEPTED: Final = 202


class LoadFailed(Exception):
    """The load could not be put on the server: it is stuck, or closes connections."""


class Plan(Protocol):
    """What a load process does. Plans and their results are pickled."""

    def run(self) -> Any:
        """Do it."""


class Apart:
    """A plan that runs in a process of its own, as a context manager. Leaving it early ends the process."""

    def __init__(self, plan: Plan) -> None:
        # Not with -m: what is pickled there would then belong to __main__.
        command = [sys.executable, "-c", "from tests.benchmarks import load; load.main()"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C reaches us alone, and we end it
        )
        self._send(plan)

    def _send(self, plan: Plan) -> None:
        assert self._process.stdin
        try:
            with self._process.stdin as pipe:
                pickle.dump(plan, pipe)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def is_done(self, within_s: float) -> bool:
        """Whether the result is there, or comes within so many seconds."""
        assert self._process.stdout
        return bool(select.select([self._process.stdout], [], [], within_s)[0])

    def await_sign(self) -> None:
        """Wait for the byte by which a plan says that it has come to its steady state."""
        assert self._process.stdout
        self._process.stdout.read(1)

    def result(self) -> Any:
        """The plan's result, waited for. Raises LoadFailed."""
        assert self._process.stdout
        try:
            result = pickle.load(self._process.stdout)
        except EOFError:
            result = LoadFailed(f"the load process ended with {self._process.wait()}")
        if isinstance(result, LoadFailed):
            raise result
        return result

    def _end(self) -> None:
        self._process.kill()
        with self._process:  # closes its pipes and waits for its end
            return


def run_apart(plan: Plan) -> Any:
    """Run a plan in a process of its own and return its result. Raises LoadFailed."""
    with Apart(plan) as running:
        return running.result()


@dataclass(frozen=True, kw_only=True)
class Flooded:
    """What became of a flood. Moments are those of `time.monotonic`, which all processes share."""

    began: float
    ended: float
    cpu_s: float
    statuses: Counter[int]
    accepted: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Flood:
    """Each request once, in a closed loop: every connection sends its next one when it has its answer."""

    address: wire.Address
    requests: Sequence[bytes]
    connections: int = 128

    def run(self) -> Flooded:
        """Send them all. Raises LoadFailed."""
        sockets = [wire.connect(self.address) for _ in range(min(self.connections, len(self.requests)))]
        try:
            began, cpu_began = time.monotonic(), time.process_time()
            answers = _exchange(sockets, self.requests)
            ended, cpu_s = time.monotonic(), time.process_time() - cpu_began
        finally:
            for connection in sockets:
                connection.close()
        statuses = Counter(map(wire.status, answers))
        accepted = [wire.order_id(answer) for answer in answers if wire.status(answer) == ACCEPTED]
        return Flooded(began=began, ended=ended, cpu_s=cpu_s, statuses=statuses, accepted=accepted)


def _exchange(sockets: Sequence[Any], requests: Sequence[bytes]) -> list[bytes]:
    """The answers to all requests, in the order in which they came."""
    by_number = {connection.fileno(): connection for connection in sockets}
    unsent = iter(requests)
    begun: dict[int, bytes] = {}
    answers: list[bytes] = []
    with closing(select.epoll()) as readable:
        for number, connection in by_number.items():
            readable.register(number, select.EPOLLIN)
            connection.sendall(next(unsent))
        while len(answers) < len(requests):
            events = readable.poll(SILENCE_S)
            if not events:
                raise LoadFailed(f"no answer for {SILENCE_S:g} s")
            for number, _ in events:
                connection = by_number[number]
                data = connection.recv(wire.READ_BYTES)
                if not data:
                    raise LoadFailed("the server closed a connection")
                if number in begun:
                    data = begun.pop(number) + data
                if not wire.is_whole(data):
                    begun[number] = data
                    continue
                answers.append(data)
                if request := next(unsent, None):
                    connection.sendall(request)
    return answers


def main() -> None:
    """Take a plan from standard input, put its result on standard output."""
    plan = pickle.load(sys.stdin.buffer)
    gc.disable()
    try:
        result = plan.run()
    except (LoadFailed, OSError, ValueError) as error:
        result = LoadFailed(str(error))
    pickle.dump(result, sys.stdout.buffer)
