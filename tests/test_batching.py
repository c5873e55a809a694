"""Batches: what waits is worked on together, and each message stays a task of its own."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.events.state import State
from celery.exceptions import SoftTimeLimitExceeded

from shop.stores import redis_client
from tasks.orders import fulfil_order
from tests.builders import wait_until
from tests.crews import SOON_S, Worker, a_busy_crew, in_hand, of, wait_for_all, wait_in_line, what_is_told
from tests.errands import QUEUES, SOON_OVERDUE, STOCK, Diary, an_app, app, send, some
from tests.running import frozen
from workers.batching import Unhandled, run_batch
from workers.embedded import RedisServer
from workers.proc import is_running
from workers.turn import pool_turn


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with one process, shared by tests that leave it in peace."""
    redis_client().flushdb()
    with Worker(tmp_path_factory.mktemp("crew"), "-Q", "errands") as worker:
        yield worker


@pytest.fixture(autouse=True)
def _nothing_left_over() -> Iterator[None]:
    """Workers are killed here, and what they had done but not acknowledged yet would come again in a later test."""
    yield
    redis_client().delete("unacked", "unacked_index", "parked", "parked_index", *QUEUES)


# --- together ------------------------------------------------------------------------------------


def test_a_lone_message_is_worked_on_at_once(crew: Worker) -> None:
    took_s = []
    for name in some(5):
        began = time.monotonic()
        send(name)
        wait_for_all(crew, [name])
        took_s.append(time.monotonic() - began)

    assert min(took_s) < 0.1
    assert crew.diary.batches(name) == [[name]]


def test_what_comes_while_a_batch_runs_is_the_next_batch(crew: Worker) -> None:
    names = some(50)
    with a_busy_crew(crew):
        for name in names:
            send(name)
        wait_in_line(crew, names)

    wait_for_all(crew, names)
    assert crew.diary.batches(*names) == [names]


def test_a_batch_has_its_limits(tmp_path: Path) -> None:
    small, large = some(30), some(7)
    limits = {"BATCH_MESSAGES": 12, "BATCH_BYTES": 10_000}
    for name in small:
        send(name, queue="chores")
    for name in large[:-1]:
        send(name, queue="chores", more=["x" * 4_000])
    send(large[-1], queue="chores", more=["x" * 40_000])

    with Worker(tmp_path, "-Q", "chores", limits=limits) as worker:
        wait_for_all(worker, [*small, *large])
        batches = worker.diary.batches()

    assert max(map(len, batches)) == 12
    assert max(sum(name in large for name in batch) for batch in batches) == 2
    assert [large[-1]] in batches


def test_a_worker_is_rid_of_what_is_done_without_the_garbage_collector(crew: Worker) -> None:
    batches = some(50)
    wait_for_all(crew, [send(name) for name in some(10)])
    before = collected_by(crew)

    for name in batches:
        wait_for_all(crew, [send(name)])
    wait_until(lambda: not in_hand(crew, "active"), what="the end of the last batch")

    assert collected_by(crew) - before < len(batches)


def collected_by(worker: Worker) -> int:
    """How many objects a worker had to leave to the garbage collector."""
    (answer,) = an_app().control.broadcast("collected", reply=True, destination=[worker.name], timeout=5)
    return int(answer[worker.name])


def test_a_full_batch_goes_to_the_pool_while_another_is_at_work_and_waits_there_for_its_turn(
    tmp_path: Path,
) -> None:
    names = some(6)
    with Worker(tmp_path, "-Q", "chores", "-c", "3", limits={"BATCH_MESSAGES": 4}) as worker:
        with a_busy_crew(worker, queue="chores") as busy:
            for name in names:
                send(name, queue="chores")
            wait_until(lambda: set(names[:4]) <= in_hand(worker, "active"), what="a batch in the pool")
            begun = worker.diary.batches()
        wait_for_all(worker, names)

        assert begun == [[busy]]
        assert worker.diary.batches() == [[busy], names[:4], names[4:]]


def test_a_batch_whose_turn_does_not_come_in_time_is_offered_again() -> None:
    bodies = [b"no message", b"nor is this"]

    with the_turn_of_another_process(), interrupted_after(0.2):
        late = run_batch(fulfil_order.name, bodies)
    in_time = run_batch(fulfil_order.name, bodies)

    assert late == [Unhandled.AGAIN, Unhandled.AGAIN]
    assert in_time == [Unhandled.ALONE, Unhandled.ALONE]


def test_what_is_offered_again_is_done_in_its_old_order(tmp_path: Path) -> None:
    names = some(6)
    limits = {"BATCH_MESSAGES": 4, "BATCH_SOFT_LIMIT_S": 0.3}
    with Worker(tmp_path, "-Q", "chores", "-c", "3", limits=limits) as worker:
        (busy,) = some(1)
        send(busy, "does not stop", queue="chores")
        wait_until(lambda: worker.diary.batches() == [[busy]], what="a batch that takes its time")
        for name in names:
            send(name, queue="chores")
        wait_until(lambda: "offered again" in worker.log(), what="a batch whose turn did not come")
        worker.diary.mark("go on")
        wait_for_all(worker, names)

        assert [name for batch in worker.diary.batches() for name in batch] == [busy, *names]
        assert worker.diary.page("alone") == []


@contextmanager
def the_turn_of_another_process() -> Iterator[None]:
    """While it lasts, nobody here gets a turn."""
    fork = multiprocessing.get_context("fork")
    taken, over = fork.Event(), fork.Event()

    def have_it() -> None:
        pool_turn.wait()
        taken.set()
        over.wait(SOON_S)

    process = fork.Process(target=have_it)
    process.start()
    taken.wait(SOON_S)
    try:
        yield
    finally:
        over.set()
        process.join()


@contextmanager
def interrupted_after(delay_s: float) -> Iterator[None]:
    """As the pool's soft time limit does, with a signal."""

    def interrupt(*_: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, delay_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- each for itself -----------------------------------------------------------------------------


def test_each_message_of_a_batch_is_a_task_with_its_own_events(crew: Worker) -> None:
    names, (stock,) = some(3), some(1)
    monitor = State()
    with what_is_told() as told:
        with a_busy_crew(crew):
            for name in names:
                send(name)
            wait_in_line(crew, names)
        send(stock, task="stock_errand")
        wait_until(lambda: all("task-succeeded" in of(told, name) for name in [*names, stock]))
        for event in told:
            monitor.event(event)

    assert len(crew.diary.batches(*names)) == 1
    for name in names:
        task = monitor.tasks[name]
        assert (task.name, task.state, task.result) == ("errand", "SUCCESS", f"'{name} done'")
        assert task.received <= task.started <= task.succeeded
        assert 0 < task.runtime < SOON_S
        events = of(told, name)
        assert {kind: set(event) for kind, event in events.items()} == {
            kind: set(event) for kind, event in of(told, stock).items()
        }
        assert events["task-received"]["args"] == f"['{name}', 'goes well']"


def test_no_events_are_sent_where_nobody_asked_for_them(tmp_path: Path) -> None:
    name, stock, late = some(3)
    with (
        Worker(tmp_path, "-Q", "chores", worker_send_task_events=False) as worker,
        what_is_told() as told,
    ):
        send(name, queue="chores")
        wait_for_all(worker, [name])
        send(stock, task="stock_errand", queue="chores")
        wait_until(lambda: worker.diary.has("done", [stock]) and not in_hand(worker, "active"))
        app.control.enable_events(destination=[worker.name])
        send(late, queue="chores")
        wait_until(lambda: of(told, late), what="events after all")

    assert (of(told, name), of(told, stock)) == ({}, {})


def test_what_is_in_a_batch_is_active_and_what_waits_is_reserved(crew: Worker) -> None:
    names = some(3)
    with a_busy_crew(crew) as busy:
        for name in names:
            send(name)
        wait_in_line(crew, names)
        active = in_hand(crew, "active")
        reserved = in_hand(crew, "reserved")
    wait_for_all(crew, names)

    assert active == {busy}
    assert set(names) <= reserved
    wait_until(lambda: not in_hand(crew, "active") | in_hand(crew, "reserved"), what="nothing in hand")


def test_a_revoked_message_is_not_worked_on(crew: Worker) -> None:
    revoked, kept = some(2)
    with what_is_told() as told:
        with a_busy_crew(crew):
            send(revoked)
            send(kept)
            wait_in_line(crew, [revoked, kept])
            app.control.revoke(revoked, destination=[crew.name], reply=True, timeout=5)
        wait_for_all(crew, [kept])
        wait_until(lambda: "task-revoked" in of(told, revoked), what="word of the revocation")

    assert crew.diary.batches(revoked, kept) == [[kept]]
    assert revoked not in crew.diary.page("alone")


# --- one by one ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 0.1},
        {"expires": 60},
        {"retries": 1},
        {"headers": {"redelivered": True}},
        {"link": app.signature("errand", args=["afterwards"])},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_message_out_of_the_ordinary_goes_celerys_own_way(crew: Worker, options: dict[str, Any]) -> None:
    (name,) = some(1)
    send(name, **options)

    wait_for_all(crew, [name])
    assert name in crew.diary.page("alone")
    assert crew.diary.batches(name) == []
    # What follows it, named by its result, must not come into the batches of the next test.
    wait_for_all(crew, [f"{name} done"] if "link" in options else [])


@pytest.mark.parametrize("conduct", ["raises", "kills", "is not answered"])
def test_a_bad_message_does_not_take_its_neighbours_with_it(crew: Worker, conduct: str) -> None:
    *good, bad = some(5)
    with what_is_told() as told:
        with a_busy_crew(crew):
            for name in good[:2]:
                send(name)
            send(bad, conduct)
            for name in good[2:]:
                send(name)
            wait_in_line(crew, [*good, bad])
        wait_for_all(crew, good)
        last = "task-failed" if conduct == "raises" else "task-succeeded"
        wait_until(lambda: last in of(told, bad), timeout_s=SOON_S, what=f"{last} of the bad one")
        (later,) = some(1)
        send(later)
        wait_for_all(crew, [later])

    assert crew.diary.batches(bad) == [[*good[:2], bad, *good[2:]]]
    assert all("task-succeeded" in of(told, name) for name in good)
    assert sorted(name for name in crew.diary.page("done") if name in good) == sorted(good)
    assert crew.diary.batches(later) == [[later]]


def test_a_message_that_a_batch_does_not_want_is_run_by_the_task(crew: Worker) -> None:
    (unwanted,) = some(1)
    send(unwanted, "goes alone")

    wait_for_all(crew, [unwanted])
    assert crew.diary.batches(unwanted) == [[unwanted]]
    assert unwanted in crew.diary.page("alone")


def test_a_batch_that_takes_too_long_is_interrupted_and_its_messages_go_one_by_one(tmp_path: Path) -> None:
    names = some(3)
    for name in names:
        send(name, "overruns", queue="chores")

    with Worker(tmp_path, "-Q", "chores", limits={"BATCH_SOFT_LIMIT_S": 0.5}) as worker:
        wait_for_all(worker, names)

        assert worker.diary.batches() == [names]
        assert worker.diary.page("alone") == names


# --- later ---------------------------------------------------------------------------------------


def test_a_time_limit_that_comes_when_the_job_is_done_ends_no_process(crew: Worker) -> None:
    send("earlier")
    wait_for_all(crew, ["earlier"])
    processes = crew.child.pids

    os.kill(processes[-1], signal.SIGUSR1)  # what Celery sends at a soft time limit
    wait_for_all(crew, [send("later")])

    assert crew.child.pids == processes


def test_messages_that_wait_let_others_pass_and_one_of_them_looks_for_all(crew: Worker) -> None:
    waiting, passing = some(3), some(3)
    crew.diary.mark("desk taken")
    for name in waiting:
        send(name, "needs the desk")
    wait_until(lambda: len(crew.diary.batches(*waiting)) > 5, what="some looks")
    for name in passing:
        send(name)
    wait_for_all(crew, passing)
    done_meanwhile = crew.diary.page("done")
    looks = crew.diary.batches(*waiting)[4:]

    crew.diary.wipe("desk taken")

    wait_for_all(crew, waiting)
    assert set(done_meanwhile).isdisjoint(waiting)
    assert {len(set(look) & set(waiting)) for look in looks} == {1}
    assert sorted(name for name in crew.diary.page("done") if name in waiting) == waiting
    assert set(crew.diary.page("alone")).isdisjoint(waiting)


def test_what_a_worker_has_parked_is_done_by_another_one_when_it_is_dead(tmp_path: Path) -> None:
    (name,) = some(1)
    Diary(tmp_path).mark("desk taken")
    with Worker(tmp_path, "-Q", "chores") as unlucky:
        send(name, "needs the desk", queue="chores")
        wait_until(lambda: redis_client().hlen("parked"), what="its parking")
        unlucky.child.kill()

    with Worker(tmp_path, "-Q", "chores") as other:
        other.diary.wipe("desk taken")
        wait_for_all(other, [name])


def put_off(worker: Worker, names: list[str]) -> int:
    """Have errands put off until the shop opens; how many of the largest batch were done together then."""
    worker.diary.mark("closed")
    for name in names:
        send(name, "is put off", queue="chores")
    wait_until(lambda: list(map(len, worker.diary.batches()[-3:])) == [1, 1, 1], what="lone looks")
    wait_until(lambda: not redis_client().hlen("unacked"), what="nothing in hand")
    tries, done_meanwhile = worker.diary.batches(), worker.diary.page("done")
    worker.diary.wipe("closed")
    wait_for_all(worker, names)

    assert done_meanwhile == []
    assert sorted(worker.diary.page("done")) == sorted(names)
    assert worker.diary.page("alone") == []
    return max(map(len, worker.diary.batches()[len(tries) :]))


def test_what_is_put_off_is_in_nobody_s_hands_and_comes_back_together_when_one_of_it_gets_through(
    tmp_path: Path,
) -> None:
    with Worker(tmp_path, "-Q", "chores") as worker:
        assert put_off(worker, some(20)) > 1


def test_without_a_call_to_the_others_each_of_them_has_to_look(tmp_path: Path) -> None:
    with Worker(tmp_path, "-Q", "chores", limits={"_call_back_others": None}) as worker:
        assert put_off(worker, some(20)) == 1


# --- when Redis is away --------------------------------------------------------------------------


def test_a_worker_that_could_park_nothing_still_makes_batches(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    off, later = some(2)
    options = {**SOON_OVERDUE, "socket_timeout": 0.3}
    with Worker(tmp_path, "-Q", "chores", broker_transport_options=options) as worker:
        send(off, "is put off once", queue="chores")
        wait_until(lambda: worker.diary.marked("put off"), what="the batch to be put off")
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            worker.diary.mark("go on")
            wait_until(lambda: "imeout" in worker.log(), what="a failure to park it")
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        wait_for_all(worker, [off])
        send(later, queue="chores")
        wait_for_all(worker, [later])

        assert worker.diary.batches(later) == [[later]]


def test_messages_of_a_lost_connection_are_done_and_not_shown_as_active_for_ever(
    client: "redis.Redis", tmp_path: Path
) -> None:
    names = some(3)
    others = {connection["id"] for connection in client.client_list()}
    with Worker(tmp_path, "-Q", "chores", broker_transport_options=SOON_OVERDUE) as worker:
        with frozen(worker.child.pids[0]):
            for name in names:
                send(name, "waits", queue="chores")
        wait_until(lambda: worker.diary.batches() == [names], what="the batch")
        of_worker = {connection["id"] for connection in client.client_list()} - others

        for connection in of_worker:
            client.client_kill_filter(_id=connection)
        wait_until(lambda: "Connection to broker lost" in worker.log(), what="the loss")
        worker.diary.mark("go on")

        wait_for_all(worker, names)
        wait_until(lambda: not in_hand(worker, "active"), timeout_s=5, what="nothing active")


def test_a_worker_goes_on_that_lost_its_connection_and_a_process_at_the_same_moment(
    client: "redis.Redis", tmp_path: Path
) -> None:
    others = {connection["id"] for connection in client.client_list()}
    lost = some(3)
    with Worker(tmp_path, "-Q", "chores", broker_transport_options=SOON_OVERDUE) as worker:
        main, process = worker.child.pids
        with frozen(main):
            for name in lost:
                send(name, "waits", queue="chores")
        wait_until(lambda: worker.diary.batches() == [lost], what="the batch that will be lost")
        of_worker = {connection["id"] for connection in client.client_list()} - others
        # Frozen, it hears of both together when it wakes up, of the connection first.
        with frozen(main):
            for connection in of_worker:
                client.client_kill_filter(_id=connection)
            os.kill(process, signal.SIGKILL)
            wait_until(lambda: not is_running(process), what="the end of the process")
        worker.diary.mark("go on")

        wait_for_all(worker, [*lost, send("later", queue="chores")])


# --- without batches -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "circumstances", ["kombu's transport", "another broker", "threads", "the main process alone"]
)
def test_elsewhere_the_same_tasks_go_celerys_own_way(tmp_path: Path, circumstances: str) -> None:
    names, settings = some(20), {}
    pool = {"threads": "threads", "kombu's transport": "prefork"}.get(circumstances, "solo")
    if circumstances == "kombu's transport":
        settings = {"broker_transport": STOCK}
    if circumstances == "another broker":
        folders = dict.fromkeys(("data_folder_in", "data_folder_out"), str(tmp_path))
        settings = {
            "broker_url": "filesystem://",
            "broker_transport": None,
            "broker_transport_options": folders,
        }
    elsewhere = an_app(**settings)

    with Worker(tmp_path, "-P", pool, "-Q", "chores", **settings) as worker:
        for name in names:
            send(name, by=elsewhere, queue="chores")
        wait_for_all(worker, names)

        assert sorted(worker.diary.page("alone")) == sorted(names)
        assert worker.diary.batches() == []
