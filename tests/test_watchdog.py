"""A process that lives and does nothing: its parent notices, and another one takes its place."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff

from tests.builders import wait_until
from tests.running import frozen
from workers import sign_of_life, transport
from workers.embedded import RedisServer
from workers.ports import free_port
from workers.proc import is_running
from workers.processes import Child, Part
from workers.sign_of_life import Replaced

KINDS = ("prefork", "parent")
SILENT_S = 1.5
#: Within which a silent process is replaced: with room for a machine that is busy.
SOON_S = 20.0


class Family:
    """A parent and its processes, seen from outside. `kind` and `guard`: of `tests.living`."""

    def __init__(
        self, kind: str, *, silent_s: float = SILENT_S, guard: str = "", is_slow: bool = False
    ) -> None:
        self._argv = [kind, str(silent_s), guard]
        self._is_slow = is_slow
        self._size = 2 if kind == "prefork" else 1

    def start(self, folder: Path) -> None:
        """Start it, with a folder of its own."""
        kind, *options = self._argv
        folder.mkdir()
        if self._is_slow:
            (folder / "slow").touch()
        self.folder, self.log = folder, folder / "log"
        argv = [sys.executable, "-m", "tests.living", kind, str(folder), *options]
        env = {"PYTHONPATH": os.getcwd()}
        self._child = Child(Part(name="family", argv=argv, log=self.log, env=env, grace_s=10))

    @property
    def pid(self) -> int:
        """The parent."""
        return self._child.pid

    def born(self) -> dict[int, str]:
        """Every process there ever was, and in whose place it was."""
        return {int(each.suffix[1:]): each.read_text() for each in self.folder.glob("member.*")}

    def members(self) -> list[int]:
        """Those that are there now, the oldest first."""
        born = self.born()
        return [pid for pid in self._child.pids if pid in born]

    def wait_until_complete(self) -> list[int]:
        """As many of them as there are to be."""
        wait_until(lambda: len(self.members()) == self._size, timeout_s=SOON_S, what="all processes")
        return self.members()

    def stop(self) -> None:
        """Stop all."""
        self._child.stop()


@contextmanager
def running(folder: Path, *families: Family) -> Iterator[None]:
    """These families, side by side."""
    started: list[Family] = []
    try:
        for number, family in enumerate(families):
            family.start(folder / str(number))
            started.append(family)
        for family in families:
            family.wait_until_complete()
        yield
    finally:
        with ThreadPoolExecutor(max_workers=len(families)) as threads:
            list(threads.map(Family.stop, started))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Families in which something happened, and who was in them `before`; `looping`: who stood in a loop without end.

    `unguarded`: who was there where nobody looks, when all others had been replaced. `resumed`: who was there after a
    suspension, by whether their parent forgives.
    """

    families: Mapping[str, Family]
    before: Mapping[str, Sequence[int]]
    looping: Mapping[str, int]
    unguarded: Sequence[int]
    resumed: Mapping[str, Sequence[int]]

    def cause(self, name: str, pid: int) -> str:
        """In whose place a process of a family was started, as it was told."""
        return self.families[name].born()[pid]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All that may befall a process, in a family each, at once: it takes as long as one of them."""
    families = {
        f"{kind} {what}": Family(kind) for kind in KINDS for what in ("stopped", "looping", "suspended")
    }
    families |= {f"{kind} slow": Family(kind, is_slow=True) for kind in KINDS}
    families |= {guard: Family("prefork", guard=guard) for guard in ("look", "forgive")}
    suspended = [*(f"{kind} suspended" for kind in KINDS), "forgive"]
    with running(tmp_path_factory.mktemp("families"), *families.values()):
        before = {name: family.members() for name, family in families.items()}
        for name in suspended:
            suspend(families[name])
        for name in (*(f"{kind} stopped" for kind in KINDS), "look"):
            os.kill(before[name][0], signal.SIGSTOP)
        for kind in KINDS:
            (families[f"{kind} looping"].folder / "loop").touch()
            # Told by somebody else than its parent, which looks on.
            os.kill(before[f"{kind} slow"][0], signal.SIGTERM)
        looping = {f"{kind} looping": looping_in(families[f"{kind} looping"]) for kind in KINDS}
        for kind in KINDS:
            replaced(families[f"{kind} stopped"], before[f"{kind} stopped"][0])
            replaced(families[f"{kind} looping"], looping[f"{kind} looping"])
            replaced(families[f"{kind} slow"], before[f"{kind} slow"][0])
        unguarded = families["look"].members()
        # By now they were still for longer than a process may be.
        for kind in KINDS:
            for pid in (families[f"{kind} suspended"].pid, *before[f"{kind} suspended"]):
                os.kill(pid, signal.SIGCONT)
        os.kill(families["forgive"].pid, signal.SIGCONT)
        replaced(families["forgive"], before["forgive"][0])
        resumed = {name: families[name].members() for name in suspended}
        yield Scene(families=families, before=before, looping=looping, unguarded=unguarded, resumed=resumed)


def looping_in(family: Family) -> int:
    """The process that stands in a loop without end; it has been told to stop, and does not hear it."""
    wait_until(lambda: list(family.folder.glob("looped.*")), what="a process in its loop")
    (looped,) = family.folder.glob("looped.*")
    os.kill(pid := int(looped.suffix[1:]), signal.SIGTERM)
    return pid


def replaced(family: Family, pid: int) -> None:
    """Wait until a process is gone and another one is in its place."""
    wait_until(lambda: not is_running(pid), timeout_s=SOON_S, what="the end of a process")
    family.wait_until_complete()


def state(pid: int) -> str:
    """As proc(5) has it: `T` is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def suspend(family: Family) -> None:
    """Stop a family, its processes first: what they have shown until then is seen."""
    members = family.members()
    for pid in members:
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(state(pid) == "T" for pid in members), what="processes that are stopped")
    os.kill(family.pid, signal.SIGSTOP)


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_is_stopped_is_replaced_and_the_others_stay(scene: Scene, kind: str) -> None:
    stopped, *others = scene.before[f"{kind} stopped"]

    (new,) = set(scene.families[f"{kind} stopped"].members()) - set(others)

    assert new != stopped
    part = {"prefork": "web", "parent": "worker"}[kind]  # a number at its end is left out
    assert scene.cause(f"{kind} stopped", new) == str(Replaced(part=part, cause="silent"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_without_end_is_ended_though_it_hears_no_sigterm_and_leaves_its_stack(
    scene: Scene, kind: str
) -> None:
    family = scene.families[f"{kind} looping"]

    log = family.log.read_text()

    assert scene.looping[f"{kind} looping"] not in family.members()
    assert ("in stand_still" in log, "showed no sign of life for" in log) == (True, True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_may_be_silent_until_it_has_begun_and_once_it_says_that_it_stops(
    scene: Scene, kind: str
) -> None:
    family = scene.families[f"{kind} slow"]
    told, *_ = scene.before[f"{kind} slow"]

    assert (family.folder / f"finished.{told}").exists()
    assert [cause for cause in family.born().values() if "silent" in cause] == []


def test_where_nobody_looks_it_stays_as_it_is(scene: Scene) -> None:
    assert scene.unguarded == scene.before["look"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_parent_that_stood_still_itself_forgives_its_processes(scene: Scene, kind: str) -> None:
    assert scene.resumed[f"{kind} suspended"] == scene.before[f"{kind} suspended"]


def test_one_that_does_not_forgive_would_end_them(scene: Scene) -> None:
    assert scene.before["forgive"][0] not in scene.resumed["forgive"]


@pytest.mark.parametrize("signals", [[], [signal.SIGTERM], [signal.SIGINT, signal.SIGQUIT]])
def test_a_parent_hands_on_what_it_is_told_and_ends_as_its_program_does(
    tmp_path: Path, signals: list[signal.Signals]
) -> None:
    # One that ends before it has shown any sign is not started again.
    program = (
        "import pathlib, signal, sys\n"
        f"signals = {[int(number) for number in signals]}\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signals)\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "for number in signals: signal.sigwait([number])\n"
        "sys.exit(7)\n"
    )
    argv = [sys.executable, "-m", "workers.parent", "--part=program", "--", sys.executable, "-c", program]

    with subprocess.Popen(argv) as parent:
        wait_until((tmp_path / "ready").exists, what="the program")
        for number in signals:
            parent.send_signal(number)
        ended_with = parent.wait(SOON_S)

    assert ended_with == 7


@pytest.fixture
def signs() -> Iterator[Callable[[], bytes]]:
    """What this process shows its parent, as if it had one that looks: what came since the last call."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    sign_of_life.use(write_end)

    def shown() -> bytes:
        try:
            return os.read(read_end, 1_000)
        except BlockingIOError:
            return b""

    yield shown
    sign_of_life.use(None)
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("has_guard", [True, False])
def test_each_command_that_waits_for_a_frozen_broker_is_a_sign(
    redis_server: RedisServer,
    signs: Callable[[], bytes],
    has_guard: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not has_guard:
        monkeypatch.setattr(transport, "SignOfLife", NoBackoff)
    # Longer than what follows a sign so soon that it is left out.
    options = {"socket_timeout": 2 * sign_of_life.SHOW_AGAIN_S, "socket_connect_timeout": 1}

    with transport.Connection(
        redis_server.url, transport=transport.Transport, transport_options=options
    ) as broker:
        client = broker.default_channel.client
        signs()
        with frozen(redis_server.pid), pytest.raises(redis.TimeoutError):
            client.llen("orders")

    assert bool(signs()) == has_guard


def test_each_attempt_to_connect_to_a_broker_that_is_away_is_a_sign(signs: Callable[[], bytes]) -> None:
    shown: list[bytes] = []

    def give_up(*_: object) -> None:
        shown.append(signs())

    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with (
        transport.Connection(nowhere, transport=transport.Transport) as broker,
        pytest.raises(OperationalError),
    ):
        broker.ensure_connection(give_up, max_retries=1)

    assert [bool(sign) for sign in shown] == [True]
