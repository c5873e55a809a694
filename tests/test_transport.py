"""The Redis transport: it fetches in bulk, loses nothing, and shares queues with kombu's own."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis
from kombu import Consumer, Exchange, Queue
from kombu.asynchronous import Hub, get_event_loop, set_event_loop
from kombu.exceptions import OperationalError
from kombu.transport import virtual
from redis.commands.core import Script

from tests import test_parking
from tests.builders import wait_until
from tests.crews import Worker
from tests.errands import OURS, SOON_OVERDUE, STOCK, Diary, an_app, send, send_many
from tests.messages import BROKEN, FIRST, REFUSED, SECOND, Taker, a_message, a_taker, ids_of, put, put_many
from tests.running import frozen
from workers import transport
from workers.app import app as order_workers
from workers.embedded import RedisServer
from workers.ports import free_port
from workers.transport import LEFT_TO, Park

# --- the wire ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("publisher", "taker"), [(STOCK, OURS), (OURS, STOCK), (OURS, OURS)])
def test_messages_travel_between_celerys_transport_and_ours(
    client: "redis.Redis", publisher: str, taker: str
) -> None:
    sent = send_many(3, by=an_app(publisher))

    with a_taker(FIRST, by=taker) as consumer:
        messages = consumer.take_all()
        bodies = [message.decode() for message in messages]
        for message in messages:
            message.ack()

    assert ids_of(messages) == sent
    assert [body[0] for body in bodies] == [[name, "goes well"] for name in sent]
    assert (client.hlen("unacked"), client.zcard("unacked_index"), client.llen(FIRST)) == (0, 0, 0)


def test_the_first_fetch_after_a_restart_of_redis_brings_messages_already(client: "redis.Redis") -> None:
    put_many(client, 3)
    client.script_flush()

    with a_taker(FIRST) as taker:
        taken = taker.take()

    assert taken == 3


@pytest.mark.parametrize("queue", ["errands", 'a "queue" / with\\signs', "žluť"])
@pytest.mark.parametrize("how", ["by tag", "what is overdue"])
def test_what_we_fetched_is_restored_to_its_queue_by_any_kombu_worker(
    client: "redis.Redis", queue: str, how: str
) -> None:
    texts = put_many(client, 3, queue)
    with a_taker(queue) as ours:
        fetched = len(ours.take_all())
        ours.channel.do_restore = False  # it dies
    recorded = client.hlen("unacked")

    with a_taker("another queue", by=STOCK, visibility_timeout=0) as stock:
        if how == "by tag":
            for tag in client.hkeys("unacked"):
                stock.channel.qos.restore_by_tag(tag)
        else:
            stock.channel.qos.restore_visible()

    restored = [json.loads(text) for text in client.lrange(queue, 0, -1)]
    assert (fetched, recorded) == (3, 3)
    assert {message["headers"].pop("redelivered") for message in restored} == {True}
    ids = {message["headers"]["id"] for message in restored}
    assert ids == {json.loads(text)["headers"]["id"] for text in texts}
    assert (client.hlen("unacked"), client.zcard("unacked_index")) == (0, 0)


def test_a_message_is_recorded_under_its_own_tag_whatever_its_headers_hold(client: "redis.Redis") -> None:
    put(client, a_message(headers={"delivery_tag": "of another message"}))

    with a_taker(FIRST) as taker:
        (message,) = taker.take_all()
        message.ack()

    assert client.hgetall("unacked") == {}


def test_a_consumer_that_acknowledges_nothing_leaves_no_record(client: "redis.Redis") -> None:
    put_many(client, 3)

    with a_taker(FIRST) as taker:
        taker.consumer.cancel()
        taker.consumer.consume(no_ack=True)
        taken = len(taker.take_all())
        recorded = client.hkeys("unacked")

    assert (taken, recorded) == (3, [])


# --- nothing is lost -----------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "kept"), [(OURS, 1), (STOCK, 0)], ids=["ours keeps it", "kombu's loses it"])
def test_a_message_on_its_way_to_a_worker_that_dies_is_kept(
    client: "redis.Redis", by: str, kept: int
) -> None:
    put_many(client, 1)
    with a_taker(FIRST, by=by) as taker:
        if by == OURS:
            taker.take_all()
            taker.messages.pop().ack()
        else:
            client.delete(FIRST)
        put_many(client, 1)
        taker.channel.is_awake = True

        taker.connection.transport.cycle.on_poll_start()
        wait_until(lambda: not client.llen(FIRST), what="taking it from the queue")
        taker.channel.client.connection.disconnect()

        assert client.llen(FIRST) + client.hlen("unacked") == kept


@pytest.mark.parametrize(("kills", "count"), [(3, 400), pytest.param(10, 1_500, marks=pytest.mark.depth)])
def test_killed_workers_leave_nothing_undone(
    client: "redis.Redis", tmp_path: Path, kills: int, count: int
) -> None:
    errands, diary, in_hand = send_many(count, "takes a while"), Diary(tmp_path), []
    in_haste = {"limits": {"BATCH_MESSAGES": 16}, "broker_transport_options": SOON_OVERDUE}

    for kill in range(kills):
        with Worker(tmp_path, **in_haste) as worker:
            goal = len(set(diary.page("done"))) + 30 + 13 * kill
            wait_until(lambda goal=goal: len(set(diary.page("done"))) >= goal, what=f"{goal} errands done")
            os.kill(worker.child.pid, signal.SIGKILL)
        in_hand.append(client.hlen("unacked"))
    with Worker(tmp_path, broker_transport_options=SOON_OVERDUE):
        wait_until(lambda: diary.has("done", errands), what="the end of all errands")
        wait_until(lambda: not client.hlen("unacked"), what="the last acknowledgement")

    assert max(in_hand) > 16
    assert client.llen(FIRST) == 0


@contextmanager
def a_worker_with_six_seconds_of_work_in_hand(tmp_path: Path, by: str) -> Iterator[tuple[Worker, list[str]]]:
    """Sixty errands that go alone, a tenth of a second each; the visibility timeout is two seconds."""
    with Worker(tmp_path, broker_transport=by, broker_transport_options=SOON_OVERDUE) as worker:
        yield worker, send_many(60, "goes alone and takes a while")


def test_what_waits_in_a_living_worker_for_longer_than_the_visibility_timeout_is_done_once(
    client: "redis.Redis", tmp_path: Path
) -> None:
    with a_worker_with_six_seconds_of_work_in_hand(tmp_path, OURS) as (worker, errands):
        wait_until(lambda: worker.diary.has("done", errands), what="the end of all errands")
        wait_until(lambda: not client.hlen("unacked"), what="the last acknowledgement")

    assert sorted(worker.diary.page("alone")) == sorted(errands)
    assert client.llen(FIRST) == 0


def test_what_waits_in_a_worker_that_does_not_say_that_it_lives_is_done_again(
    client: "redis.Redis", tmp_path: Path
) -> None:
    with a_worker_with_six_seconds_of_work_in_hand(tmp_path, STOCK) as (worker, errands):
        wait_until(
            lambda: len(worker.diary.page("alone")) > len(errands), what="an errand that is done twice"
        )


def test_a_worker_killed_while_it_looks_for_overdue_messages_keeps_others_from_it_for_seconds_only() -> None:
    from workers.app import VISIBILITY_TIMEOUT_S, app

    with app.connection_for_read() as connection:
        assert connection.default_channel.unacked_mutex_expire <= VISIBILITY_TIMEOUT_S


def test_a_warm_shutdown_under_load_gives_back_what_was_not_done(
    client: "redis.Redis", tmp_path: Path
) -> None:
    errands, diary = send_many(1_000), Diary(tmp_path)

    with Worker(tmp_path, limits={"BATCH_MESSAGES": 4}) as worker:
        wait_until(lambda: len(diary.page("done")) > 100)
        is_clean = worker.child.stop()

    done = diary.page("done")
    left = [json.loads(text)["headers"] for text in client.lrange(FIRST, 0, -1)]
    assert is_clean
    assert client.hlen("unacked") == 0
    assert len(done) == len(set(done)) < 1_000
    assert set(done).isdisjoint(headers["id"] for headers in left)
    assert set(errands) == {*done, *(headers["id"] for headers in left)}
    assert not any(headers.get("redelivered") for headers in left)


@contextmanager
def redis_restarted(client: "redis.Redis", server: RedisServer, of_worker: list[str]) -> Iterator[None]:
    server.stop()
    server.start()
    yield


@contextmanager
def connections_closed(client: "redis.Redis", server: RedisServer, of_worker: list[str]) -> Iterator[None]:
    for connection in of_worker:
        client.client_kill_filter(_id=connection)
    yield


@contextmanager
def redis_full(client: "redis.Redis", server: RedisServer, of_worker: list[str]) -> Iterator[None]:
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


@contextmanager
def redis_read_only(client: "redis.Redis", server: RedisServer, of_worker: list[str]) -> Iterator[None]:
    client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@pytest.mark.parametrize("lose", [connections_closed, redis_restarted, redis_read_only])
def test_a_worker_goes_on_after_losing_redis(
    client: "redis.Redis",
    tmp_path: Path,
    redis_server: RedisServer,
    lose: Callable[..., AbstractContextManager[None]],
) -> None:
    errands, diary = send_many(300, "takes a while"), Diary(tmp_path)
    in_haste = {"limits": {"BATCH_MESSAGES": 16}, "broker_transport_options": SOON_OVERDUE}
    others = {connection["id"] for connection in client.client_list()}

    with Worker(tmp_path, **in_haste) as worker:
        wait_until(lambda: diary.page("done"))
        of_worker = [each["id"] for each in client.client_list() if each["id"] not in others]
        with lose(client, redis_server, of_worker):
            wait_until(lambda: "Connection to broker lost" in worker.log(), what="the loss")
        wait_until(lambda: diary.has("done", errands), what="the end of all errands")
        later = send("later")
        wait_until(lambda: diary.batches(later), what="a batch with the new message")
        wait_until(lambda: not client.hlen("unacked"), what="the last acknowledgement")

        assert worker.child.is_alive()
        assert client.llen(FIRST) == 0


def test_a_worker_of_a_full_redis_keeps_its_connection_and_does_all_that_waits(
    client: "redis.Redis", tmp_path: Path, redis_server: RedisServer
) -> None:
    errands, diary = send_many(300, "takes a while"), Diary(tmp_path)

    with Worker(tmp_path, limits={"BATCH_MESSAGES": 16}, broker_transport_options=SOON_OVERDUE) as worker:
        wait_until(lambda: diary.page("done"))
        with redis_full(client, redis_server, []):
            wait_until(lambda: diary.has("done", errands), what="the end of all errands")
            wait_until(lambda: "fetched once a second" in worker.log(), what="a look that Redis refuses")
            wait_until(lambda: not client.hlen("unacked"), what="the last acknowledgement")
        later = send("later")
        wait_until(lambda: diary.batches(later), what="a batch with the new message")

        assert "Connection to broker lost" not in worker.log()


def test_a_worker_of_a_redis_that_is_full_says_so_in_a_line(
    client: "redis.Redis", tmp_path: Path, redis_server: RedisServer
) -> None:
    with Worker(tmp_path, broker_transport_options=SOON_OVERDUE) as worker:
        # More than it may have in hand, so it asks for none.
        errands = send_many(80, "goes alone and takes a while")
        wait_until(lambda: worker.diary.page("done"), what="the first one")
        with redis_full(client, redis_server, []):
            wait_until(
                lambda: worker.log().count("was not told what is in hand") > 1, what="some tries in vain"
            )
            told = worker.log()
        wait_until(lambda: worker.diary.has("done", errands), what="the end of all errands")

    assert told.count("overdue messages are not looked for at present") == 1
    assert "Error in timer" not in told


def test_a_broker_that_is_away_is_looked_for_each_second_however_long() -> None:
    waits_s: list[float] = []
    nowhere = f"redis://127.0.0.1:{free_port()}"

    with order_workers.connection_for_write(nowhere) as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _, wait_s: waits_s.append(wait_s), max_retries=3)

    assert waits_s == [1, 1, 1]


@pytest.mark.parametrize("connections", [50, pytest.param(1000, marks=pytest.mark.depth)])
def test_a_worker_s_loop_has_no_more_to_do_after_many_connections_than_after_one(connections: int) -> None:
    with an_event_loop() as hub:
        counts = set()
        for _ in range(connections):
            with order_workers.connection_for_read().ensure_connection() as connection:
                connection.transport.register_with_event_loop(connection.connection, hub)
                counts.add(len(hub.on_tick))

    assert counts == {1}
    assert not hub.on_tick


def test_a_worker_s_loop_has_no_more_to_do_after_its_connections_were_lost(
    client: "redis.Redis", tmp_path: Path
) -> None:
    an_app().control.broadcast("callbacks", reply=True, timeout=0.1)
    send("before")
    others = {connection["id"] for connection in client.client_list()}
    with Worker(tmp_path) as worker:
        before = callbacks_of(worker)
        for losses in range(1, 4):
            for each in client.client_list():
                if each["id"] not in others:
                    client.client_kill_filter(_id=each["id"])
            wait_until(lambda n=losses: worker.log().count("broker lost") >= n, what="the loss")
            again = send(f"after loss {losses}")
            wait_until(lambda name=again: worker.diary.has("done", [name]), what="a new connection")

        assert callbacks_of(worker) == before


def callbacks_of(worker: Worker) -> int:
    """How many callbacks a worker's loop makes in each of its turns."""
    answers: list[dict[str, int]] = []

    def answered() -> bool:
        # A worker that has just connected may not have subscribed yet.
        reply = an_app().control.broadcast("callbacks", reply=True, destination=[worker.name], timeout=5)
        answers.extend(reply or [])
        return bool(answers)

    wait_until(answered, what="its answer")
    return answers[0][worker.name]


def its_connection_is_lost_and_it_is_closed(taker: Taker) -> None:
    taker.connection.transport.client = None
    taker.channel.close()


LOSSES: dict[str, Callable[[Taker], None]] = {
    "its connection was closed": lambda taker: taker.connection.collect(),
    "it was closed": lambda taker: taker.channel.close(),
    "its connection was lost, and it was closed": its_connection_is_lost_and_it_is_closed,
}
THE_DESK = Park("the desk", 0, 60_000)
ENDINGS: dict[str, Callable[[Any], object]] = {
    "acknowledged": lambda message: message.ack(),
    "rejected": lambda message: message.reject(),
    "requeued": lambda message: message.requeue(),
    "parked": lambda message: message.channel.park({message.delivery_tag: THE_DESK}),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_a_lost_channel_has_brought_is_ended_without_harm_and_comes_again(
    client: "redis.Redis", loss: str, ending: str
) -> None:
    with an_event_loop() as hub, a_taker(FIRST) as taker:
        put_many(client, 1)
        taker.take()
        LOSSES[loss](taker)

        ENDINGS[ending](taker.messages[0])
        next(hub.loop)

        assert client.llen(FIRST) + client.hlen("unacked") == 1


def test_an_acknowledgement_that_waits_when_the_connection_is_lost_is_dropped(client: "redis.Redis") -> None:
    with an_event_loop() as hub, a_taker(FIRST) as taker:
        put_many(client, 1)
        wait_until(
            lambda: not taker.take() and taker.messages, what="the message, and a look that finds nothing"
        )

        taker.messages[0].ack()
        its_connection_is_lost_and_it_is_closed(taker)
        next(hub.loop)

        assert client.hlen("unacked") == 1


@pytest.mark.parametrize("refuse", [redis_full, redis_read_only])
def test_a_connection_closed_while_redis_refuses_leaves_nothing_open(
    client: "redis.Redis", redis_server: RedisServer, refuse: Callable[..., AbstractContextManager[None]]
) -> None:
    others = {each["id"] for each in client.client_list()}
    put_many(client, 3)

    with an_event_loop(), a_taker(FIRST) as taker:
        for number in range(3):
            # As a worker has for remote control: it goes with its channel.
            orders = Queue(
                f"orders to {number}", Exchange("all workers", "fanout"), no_declare=True, auto_delete=True
            )
            Consumer(taker.connection.channel(), [orders], auto_declare=True).consume()
        wait_until(lambda: len(taker.take_all()) == 3, what="the messages")
        with refuse(client, redis_server, []):
            taker.connection.collect()
            taker.connection.close()

            wait_until(lambda: {each["id"] for each in client.client_list()} <= others, timeout_s=5)

    assert client.hlen("unacked") == 3


@pytest.mark.parametrize("refuse", [redis_full, redis_read_only])
def test_a_connection_that_redis_refuses_at_its_start_is_closed(
    client: "redis.Redis", redis_server: RedisServer, refuse: Callable[..., AbstractContextManager[None]]
) -> None:
    others = {each["id"] for each in client.client_list()}
    with an_event_loop() as hub, refuse(client, redis_server, []):
        connection = order_workers.connection_for_read().ensure_connection()

        with pytest.raises(redis.RedisError):
            connection.transport.register_with_event_loop(connection.connection, hub)

        wait_until(lambda: {each["id"] for each in client.client_list()} <= others, timeout_s=5)


# --- fetching ------------------------------------------------------------------------------------


def test_no_fetch_takes_more_than_the_prefetch_limit_leaves(client: "redis.Redis") -> None:
    put_many(client, 40, FIRST)
    put_many(client, 40, SECOND)

    with a_taker(FIRST, SECOND, prefetch=10) as taker:
        at_first = len(taker.take_all())
        in_hand = client.hlen("unacked")
        for message in taker.messages[:4]:
            message.ack()
        then = len(taker.take_all())

    assert (at_first, in_hand, then) == (10, 10, 14)


@pytest.mark.parametrize("name", ["unacked", "unacked_index"])
def test_a_fetch_that_cannot_record_what_it_takes_takes_nothing(client: "redis.Redis", name: str) -> None:
    with a_taker(FIRST) as taker:
        fetch_now(taker)  # as every channel does first
        put_many(client, 3)
        client.set(name, "something else")

        with suppress(redis.ResponseError):  # what has become of the messages tells
            fetch_now(taker)

        assert client.llen(FIRST) == 3
        client.delete(name)


@pytest.mark.parametrize("waiting", [300, 3_000])
def test_however_long_the_line_its_oldest_are_fetched_first_each_of_them_recorded(
    client: "redis.Redis", waiting: int
) -> None:
    put_many(client, waiting, FIRST)
    oldest_first = [json.loads(text)["headers"]["id"] for text in client.lrange(FIRST, -200, -1)][::-1]

    with a_taker(FIRST, prefetch=200) as taker:
        taken = ids_of(taker.take_all())
        recorded = (set(client.hkeys("unacked")), set(client.zrange("unacked_index", 0, -1)))

    assert taken == oldest_first
    assert recorded == (set(oldest_first), set(oldest_first))


def test_a_queue_that_is_always_full_leaves_the_others_their_share(client: "redis.Redis") -> None:
    put_many(client, 1_000, FIRST)
    put_many(client, 20, SECOND)

    with a_taker(FIRST, SECOND) as taker:
        taker.take()
        shares = (len(taker.messages), client.llen(SECOND), client.llen(FIRST))
        taker.take()
        taker.take()

        assert shares == (transport.FETCH_MAX, 20 - transport.OTHERS_SHARE, 1_000 - transport.FETCH_MAX + 8)
        assert (client.llen(SECOND), client.llen(FIRST) > 0) == (0, True)


def test_a_worker_that_keeps_up_has_the_first_queue_for_itself(client: "redis.Redis") -> None:
    with (
        pytest.MonkeyPatch.context() as patch,
        a_taker(FIRST, SECOND) as one,
        a_taker(FIRST, SECOND) as other,
    ):
        patch.setattr(transport, "LEFT_TO_ONE_MS", 60_000)
        put_many(client, 3)
        fetch_now(one)
        put_many(client, 2)
        put_many(client, 2, SECOND)

        fetch_now(other)
        left = client.llen(FIRST)
        fetch_now(one)

        assert (len(one.messages), left) == (5, 2)
        assert len(other.messages) == 2, "from the other queue"


def test_others_take_over_from_a_worker_that_ends_nothing(client: "redis.Redis") -> None:
    with a_taker(FIRST) as one, a_taker(FIRST) as other:
        put_many(client, 3)
        fetch_now(one)
        put_many(client, 2)
        fetch_now(one)
        put_many(client, 2)

        wait_until(other.take, timeout_s=3, what="the other one to take what is there")

        assert (len(one.messages), len(other.messages)) == (5, 2)


def test_of_a_long_line_all_workers_take(client: "redis.Redis") -> None:
    client.set(LEFT_TO + FIRST, "another worker")
    put_many(client, 300)

    with a_taker(FIRST, prefetch=10) as taker:
        fetch_now(taker)

        assert len(taker.messages) == 10


def fetch_now(taker: Taker) -> None:
    """Let a consumer fetch once, as under load."""
    taker.channel.is_awake = True
    taker.connection.transport.cycle.on_poll_start()
    taker.take()


def test_a_lone_message_on_the_first_queue_is_awaited_and_not_found_by_looking(client: "redis.Redis") -> None:
    long_s = 30
    with a_taker(FIRST, SECOND, polling_interval=long_s) as taker:
        fetch_now(taker)  # as every channel does first
        taker.connection.transport.cycle.on_poll_start()
        blocked = [connection for connection in client.client_list() if connection["cmd"] == "blmove"]
        put_many(client, 1, FIRST)

        assert (len(blocked), taker.channel.brpop_timeout) == (1, long_s)
        assert taker.take() == 1


def test_messages_of_a_queue_that_is_given_up_meanwhile_are_not_lost(client: "redis.Redis") -> None:
    put_many(client, 200, FIRST)
    put_many(client, 50, SECOND)

    with a_taker(FIRST, SECOND) as taker:
        taker.take()
        taker.connection.transport.cycle.on_poll_start()
        taker.consumer.cancel_by_queue(SECOND)
        taker.take_all()

        assert len(taker.messages) + client.llen(FIRST) + client.llen(SECOND) == 250
        assert client.llen(FIRST) == 0


# --- beginning with what a look shows ------------------------------------------------------------


@contextmanager
def a_leader(client: "redis.Redis", *, for_ms: int = 60_000, prefetch: int = 0) -> Iterator[Taker]:
    """A consumer to which its queue was just left, for so long, and that waits for a message."""
    with pytest.MonkeyPatch.context() as patch, a_taker(FIRST, prefetch=prefetch) as taker:
        patch.setattr(transport, "LEFT_TO_ONE_MS", for_ms)
        put_many(client, 1)
        taker.take()
        taker.messages.pop().ack()
        taker.take()
        yield taker


def whereabouts(client: "redis.Redis") -> tuple[int, int, int]:
    """How many messages are on the queue, recorded as unacknowledged, and in the index of these."""
    return client.llen(FIRST), client.hlen("unacked"), client.zcard("unacked_index")


def test_whoever_has_the_queue_for_himself_begins_with_a_lone_message_and_takes_it_afterwards(
    client: "redis.Redis",
) -> None:
    with a_leader(client) as taker:
        put_many(client, 1)
        taker.take()
        begun = (len(taker.messages), whereabouts(client))
        taker.take()

        assert begun == (1, (1, 0, 0))
        assert (len(taker.messages), whereabouts(client)) == (1, (0, 1, 1))


def test_a_message_that_was_done_before_it_was_taken_is_never_recorded(client: "redis.Redis") -> None:
    with a_leader(client) as taker:
        client.config_resetstat()
        put_many(client, 1)
        taker.take()
        taker.messages[0].ack()
        done = whereabouts(client)
        taker.take()

        assert (done, whereabouts(client)) == ((1, 0, 0), (0, 0, 0))
        assert "cmdstat_hset" not in client.info("commandstats")


@pytest.mark.parametrize(
    "why", [{"for_ms": 1}, {"prefetch": 1}], ids=["it is not left to us any more", "no place beside it"]
)
def test_a_message_is_taken_before_it_is_begun_where_others_might_take_it(
    client: "redis.Redis", why: dict[str, int]
) -> None:
    with a_leader(client, **why) as taker:
        put_many(client, 1)
        taker.take()

        assert (len(taker.messages), whereabouts(client)) == (1, (0, 1, 1))


def test_what_is_rejected_before_it_was_taken_is_dropped_once_it_is(client: "redis.Redis") -> None:
    with a_leader(client) as taker:
        put_many(client, 1)
        taker.take()
        taker.messages[0].reject()
        taker.take()

        assert (len(taker.messages), whereabouts(client)) == (1, (0, 0, 0))


def test_what_is_parked_before_it_was_taken_is_parked_once_it_is(client: "redis.Redis") -> None:
    with a_leader(client) as taker:
        put_many(client, 1)
        taker.take()
        tag = taker.messages[0].delivery_tag
        taker.channel.park({tag: THE_DESK})
        before = (client.hkeys("parked"), whereabouts(client))
        put_many(client, 1)
        fetch_now(taker)
        behind = taker.messages[1:]

        assert before == ([], (1, 0, 0))
        assert (client.hkeys("parked"), whereabouts(client)) == ([tag], (0, 1, 1))
        assert len(behind) == 1


def test_others_that_are_parked_with_it_do_not_wait_for_it(client: "redis.Redis") -> None:
    with a_leader(client) as taker:
        put_many(client, 1)
        fetch_now(taker)
        taker.take()
        put_many(client, 1)
        taker.take()
        first, begun = (message.delivery_tag for message in taker.messages)
        before = whereabouts(client)
        taker.channel.park(dict.fromkeys([first, begun], THE_DESK))

        assert (before, whereabouts(client)) == ((1, 1, 1), (1, 0, 0))
        assert client.hkeys("parked") == [first]


def test_an_acknowledgement_that_a_fetch_came_too_early_for_is_sent_soon(client: "redis.Redis") -> None:
    with a_leader(client) as taker:
        put_many(client, 1)
        taker.take()
        begun = whereabouts(client)
        with an_event_loop() as hub:
            fetch_begins(taker)
            taker.messages[0].ack()
            late = monotonic() + 2 * transport.ACKNOWLEDGE_WITHIN_S
            wait_until(
                lambda: next(hub.loop) is None and monotonic() > late, what="the timer, before the answer"
            )
            taker.take()
            recorded = whereabouts(client)
            wait_until(
                lambda: next(hub.loop) is None and not client.hlen("unacked"), what="the acknowledgement"
            )

        assert (begun, recorded) == ((1, 0, 0), (0, 1, 1))


def fetch_begins(taker: Taker) -> None:
    """Let a consumer send its next fetch, without reading the answer."""
    taker.channel._next_fetch_at = 0.0
    taker.connection.transport.cycle.on_poll_start()


def test_what_cannot_be_put_back_once_it_was_taken_keeps_nothing_from_those_that_came_with_it(
    client: "redis.Redis",
) -> None:
    def refuse() -> None:
        raise redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'")

    with a_leader(client) as taker:
        put_many(client, 1)
        taker.take()
        taker.channel.does_once_taken(taker.messages[0].delivery_tag, refuse)
        put_many(client, 2)
        fetch_now(taker)

        assert (len(taker.messages), whereabouts(client)) == (3, (0, 3, 3))


def test_what_a_full_redis_does_not_take_back_is_no_longer_in_hand(
    client: "redis.Redis", redis_server: RedisServer
) -> None:
    with a_taker(FIRST) as taker:
        put_many(client, 1)
        taker.take()
        with redis_full(client, redis_server, []), pytest.raises(redis.ResponseError):
            taker.messages[0].reject(requeue=True)

        assert (taker.channel.qos.has_nothing_in_hand(), whereabouts(client)) == (True, (0, 1, 1))
        taker.channel.do_restore = False  # it dies; the message comes again when it is overdue


def test_a_channel_that_was_lost_with_a_message_begun_is_closed(client: "redis.Redis") -> None:
    with a_leader(client) as taker:
        put_many(client, 1)
        taker.take()
        taker.messages[0].ack()
        connection = taker.channel.connection
        taker.channel.connection = None
        taker.channel.take_shown()
        taker.channel.connection = connection

        assert (taker.channel.shown_tag, whereabouts(client)) == ("", (1, 0, 0))


@pytest.mark.parametrize("is_done", [True, False], ids=["done", "not done"])
def test_what_was_begun_at_the_end_stays_on_the_queue_if_it_was_not_done(
    client: "redis.Redis", is_done: bool
) -> None:
    with a_leader(client) as taker:
        put_many(client, 2)
        taker.take()
        if is_done:
            taker.messages[0].ack()

    assert (len(taker.messages), whereabouts(client)) == (1, (1 if is_done else 2, 0, 0))


def test_what_was_begun_by_one_that_died_is_there_for_the_next(client: "redis.Redis") -> None:
    with a_leader(client) as one, a_taker(FIRST) as other:
        put_many(client, 1)
        one.take()
        one.channel.client.connection.disconnect()
        client.delete(LEFT_TO + FIRST)  # as time does

        assert other.take() == 1
        assert ids_of(other.messages) == ids_of(one.messages)


def test_what_is_shown_and_cannot_be_read_is_kept_apart_once(client: "redis.Redis") -> None:
    with a_leader(client) as taker:
        (garbage,) = put(client, BROKEN["a list"])
        taker.take()
        put_many(client, 1)
        wait_until(taker.take, what="the message behind it")

        assert client.lrange("unreadable", 0, -1) == [garbage]
        assert (len(taker.messages), client.llen(FIRST), client.hlen("unacked")) == (1, 0, 1)


def test_whoever_ends_lone_messages_keeps_up(client: "redis.Redis") -> None:
    with a_leader(client, for_ms=30) as taker, pytest.MonkeyPatch.context() as patch:
        wait_until(lambda: not client.exists(LEFT_TO + FIRST), what="the end of that")
        patch.setattr(transport, "LEFT_TO_ONE_MS", 60_000)
        put_many(client, 1)
        taker.take()

        assert client.exists(LEFT_TO + FIRST)


# --- acknowledging and putting back --------------------------------------------------------------


@pytest.mark.parametrize("before", ["at first", "after a lost connection"])
def test_acknowledgements_are_sent_together_and_all_arrive(
    client: "redis.Redis", tmp_path: Path, before: str
) -> None:
    others = {each["id"] for each in client.client_list()}

    with Worker(tmp_path) as worker:
        if before == "after a lost connection":
            first = send("before")
            wait_until(lambda: Diary(tmp_path).has("done", [first]), what="a connection to lose")
            for each in client.client_list():
                if each["id"] not in others:
                    client.client_kill_filter(_id=each["id"])
            wait_until(lambda: "Connection to broker lost" in worker.log(), what="the loss")
            wait_until(lambda: Diary(tmp_path).has("done", [send("first")]), what="the next connection")
        with frozen(worker.child.pid):
            errands = send_many(400)
        client.config_resetstat()
        wait_until(lambda: Diary(tmp_path).has("done", errands))
        wait_until(lambda: not client.hlen("unacked"), what="the last acknowledgement")

    assert client.zcard("unacked_index") == 0
    assert client.info("commandstats")["cmdstat_hdel"]["calls"] < 40


def test_acknowledgements_travel_with_the_next_fetch_also_where_redis_forgot_the_script(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PACE_S", 0)
    with an_event_loop(), a_taker(FIRST, prefetch=10) as taker:
        put_many(client, 20)
        taker.take()
        for message in taker.messages[:4]:
            message.ack()
        before = client.hlen("unacked")
        client.script_flush()
        taker.take_all()

        assert (before, client.hlen("unacked"), client.zcard("unacked_index")) == (10, 10, 10)
        assert (len(taker.messages), client.llen(FIRST)) == (14, 6)


def test_acknowledgements_that_no_fetch_takes_along_are_sent_soon(client: "redis.Redis") -> None:
    with an_event_loop() as hub, a_taker(FIRST) as taker:
        put_many(client, 1)
        taker.take()
        taker.messages[0].ack()
        taker.consumer.cancel()
        before = client.hlen("unacked")
        wait_until(lambda: next(hub.loop) is None and not client.hlen("unacked"), what="the acknowledgement")

        assert before == 1


def test_acknowledgements_that_wait_at_the_end_are_sent(client: "redis.Redis") -> None:
    with an_event_loop():
        with a_taker(FIRST) as taker:
            put_many(client, 2)
            taker.take()
            for message in taker.messages:
                message.ack()
            before = client.hlen("unacked")

        assert (before, client.hlen("unacked"), client.llen(FIRST)) == (2, 0, 0)


@contextmanager
def an_event_loop() -> Iterator[Any]:
    """While it lasts, kombu finds the event loop that a worker has."""
    hub = Hub()
    hub.call_repeatedly(0.01, lambda: None)  # it never rests for long
    before = get_event_loop()
    set_event_loop(hub)
    try:
        yield hub
    finally:
        set_event_loop(before)
        hub.close()


def test_messages_of_a_full_redis_are_fetched_although_it_refuses_to_wait_for_them(
    client: "redis.Redis", redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with an_event_loop(), a_taker(FIRST) as taker:
        with redis_full(client, redis_server, []):
            wait_until(lambda: taker.take() or "Redis is full" in caplog.text, what="the refusal")
        put_many(client, 1)
        wait_until(taker.take, what="the message")

    assert len(taker.messages) == 1


def test_without_a_rest_a_full_redis_costs_its_workers_their_connections(
    client: "redis.Redis",
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(transport, "_is_full", lambda _refusal: False)

    with pytest.raises(redis.OutOfMemoryError):
        test_messages_of_a_full_redis_are_fetched_although_it_refuses_to_wait_for_them(
            client, redis_server, caplog
        )


def test_what_is_put_back_is_first_in_line_again_as_if_never_fetched(client: "redis.Redis") -> None:
    texts = put_many(client, 8)
    with a_taker(FIRST, prefetch=6) as taker:
        taker.take_all()
        tags = [message.delivery_tag for message in taker.messages]
        taker.messages[2].ack()

        taker.channel.qos.put_back(tags[1:5])

        assert client.lrange(FIRST, 0, -1)[::-1] == [texts[1], *texts[3:5], *texts[6:]]
        assert set(client.hkeys("unacked")) == {tags[0], tags[5]}
        assert taker.take() == 3 + 1


# --- whether messages arrive ---------------------------------------------------------------------


def test_messages_arrive_where_fetches_are_answered_and_channels_subscribed(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_taker(FIRST, prefetch=2) as taker:
        takes = taker.connection.transport.takes_messages
        found = [takes()]
        fetch_now(taker)
        found.append(takes())
        everybody = Queue("ours", Exchange("everybody", type="fanout"), auto_delete=True)
        with Consumer(taker.connection.channel(), [everybody]):
            found.append(takes())
            wait_until(lambda: taker.take() or takes(), what="the subscription")
        monkeypatch.setattr(transport, "ANSWERED_WITHIN_S", 0.0)
        found.append(takes())
        put_many(client, 2)
        wait_until(lambda: taker.take() or len(taker.messages) == 2, what="two messages")
        found.append(takes())

    told = dict(zip(("new", "answered", "not subscribed", "silent", "with full hands"), found, strict=True))
    assert told == {
        "new": False,
        "answered": True,
        "not subscribed": False,
        "silent": False,
        "with full hands": True,
    }


@pytest.mark.parametrize(("guard", "always"), [("_is_subscribed", True), ("_answered_at", float("inf"))])
def test_without_a_look_at_what_redis_grants_it_would_say_so_too_early(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, guard: str, always: Any
) -> None:
    monkeypatch.setattr(transport.Channel, guard, always)

    with pytest.raises(AssertionError):
        test_messages_arrive_where_fetches_are_answered_and_channels_subscribed(client, monkeypatch)


# --- garbage -------------------------------------------------------------------------------------


def test_garbage_is_kept_apart_and_told_of_and_what_is_behind_it_is_done(
    client: "redis.Redis", tmp_path: Path
) -> None:
    garbage = put(client, *BROKEN.values())
    put(client, *REFUSED)
    behind = send("behind")

    with Worker(tmp_path) as worker:
        wait_until(lambda: Diary(tmp_path).has("done", [behind]), timeout_s=10, what="the errand behind")
        wait_until(lambda: not client.hlen("unacked"), timeout_s=10, what="the last acknowledgement")

        assert worker.child.is_alive()
        kept = client.lrange("unreadable", 0, -1)
        assert [name for name, text in zip(BROKEN, garbage, strict=True) if text not in kept] == []
        assert worker.log().count("unreadable") == len(garbage)


def test_what_lies_where_garbage_is_kept_gives_way_and_costs_no_message(client: "redis.Redis") -> None:
    client.set("unreadable", "something else")
    put(client, BROKEN["JSON without a tag"])
    put_many(client, 2)
    with a_taker(FIRST) as taker:
        with suppress(redis.ResponseError):  # what has become of the messages tells
            fetch_now(taker)
        assert (len(taker.messages), client.hlen("unacked")) == (2, 2)
        assert client.lrange("unreadable", 0, -1) == [BROKEN["JSON without a tag"]]

        client.delete("unreadable")
        client.set("unreadable", "something else")
        (garbage,) = put(client, BROKEN["a list"])
        fetch_now(taker)
        assert client.lrange("unreadable", 0, -1) == [garbage]


# --- negative controls ---------------------------------------------------------------------------

CONTROLS: list[tuple[str, str, str, str, Callable[..., None]]] = [
    (
        "a full Redis parks what is in hand",
        "park",
        "call('HDEL', KEYS[at], '') end\nfor at = 2, 4, 2 do call('ZREM', KEYS[at], '') end",
        "call('HLEN', KEYS[at]) end\nfor at = 2, 4, 2 do call('ZCARD', KEYS[at]) end",
        test_parking.test_a_full_redis_parks_what_is_in_hand_and_brings_it_back,
    ),
    (
        "a full Redis brings back what is parked",
        "unpark",
        "call('ZREM', KEYS[2], '')",
        "call('ZCARD', KEYS[2])",
        test_parking.test_a_full_redis_parks_what_is_in_hand_and_brings_it_back,
    ),
    (
        "what lies where garbage is kept gives way",
        "fetch",
        "type(redis.pcall('LPUSH', KEYS[3], message)) == 'table'",
        "redis.pcall('LPUSH', KEYS[3], message) == ''",
        test_what_lies_where_garbage_is_kept_gives_way_and_costs_no_message,
    ),
    (
        "what is taken is recorded",
        "fetch",
        "call('HSET', KEYS[1]",
        "call('HSET', 'elsewhere'",
        partial(test_a_message_on_its_way_to_a_worker_that_dies_is_kept, by=OURS, kept=1),
    ),
    (
        "a fetch has a limit",
        "fetch",
        "left = left - #messages",
        "",
        test_no_fetch_takes_more_than_the_prefetch_limit_leaves,
    ),
    (
        "no queue starves",
        "fetch",
        "math.min(left, tonumber(ARGV[3]))",
        "0",
        test_a_queue_that_is_always_full_leaves_the_others_their_share,
    ),
    (
        "one worker at a time has a queue",
        "fetch",
        "left_to ~= ARGV[4]",
        "false",
        test_a_worker_that_keeps_up_has_the_first_queue_for_itself,
    ),
    (
        "no worker has a queue for long without keeping up",
        "fetch",
        ", 'PX', ARGV[5]",
        "",
        test_others_take_over_from_a_worker_that_ends_nothing,
    ),
    (
        "a long line is for all",
        "fetch",
        "call('LLEN', queue) < tonumber(ARGV[6])",
        "true",
        test_of_a_long_line_all_workers_take,
    ),
    (
        "what is done already is not recorded",
        "fetch",
        "tag and tag ~= ARGV[7]",
        "tag",
        test_a_message_that_was_done_before_it_was_taken_is_never_recorded,
    ),
    (
        "what is put back keeps its order",
        "put_back",
        "for at = #ARGV, 1, -1 do",
        "for at = 1, #ARGV do",
        test_what_is_put_back_is_first_in_line_again_as_if_never_fetched,
    ),
    (
        "one message looks for all that wait for the same",
        "unpark",
        "if looks[at + 1] ~= '0' then",
        "if false then",
        test_parking.test_one_message_looks_for_all_that_wait_for_the_same_and_the_oldest_comes_first,
    ),
    (
        "looks become rare",
        "unpark",
        "(now - oldest) / 10",
        "0",
        test_parking.test_looks_become_rare_as_the_waiting_becomes_long,
    ),
    (
        "one that waits in vain is not the only one that looks",
        "unpark",
        "math.floor(call('ZCARD', line) * ARGV[6])",
        "0",
        test_parking.test_which_one_looks_is_drawn_by_lot,
    ),
    (
        "who comes later does not hasten the next look",
        "park",
        "'NX', now + wait",
        "'LT', now + wait",
        test_parking.test_who_comes_later_does_not_hasten_the_next_look,
    ),
    (
        "what is over is not looked for one by one",
        "unpark",
        "for at = 7, #ARGV do",
        "for at = 7, 0 do",
        test_parking.test_where_one_gets_through_a_batch_of_the_others_comes_back,
    ),
    (
        "what waits for nothing any more is not parked",
        "unpark",
        "if call('EXISTS', KEYS[2]) == 0 then call('DEL', KEYS[1])",
        "if call('EXISTS', KEYS[2]) == 0 then",
        test_parking.test_a_message_that_nothing_brings_back_is_not_called_parked,
    ),
    (
        "nobody waits for a lock that is gone",
        "park",
        "call('EXISTS', awaited) == 1",
        "true",
        test_parking.test_who_waits_for_a_key_that_is_gone_comes_back_at_once,
    ),
]


@pytest.mark.parametrize(
    ("name", "guard", "instead", "watch"), [row[1:] for row in CONTROLS], ids=[row[0] for row in CONTROLS]
)
def test_without_its_safeguard_the_test_that_watches_it_turns_red(
    client: "redis.Redis",
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    guard: str,
    instead: str,
    watch: Callable[..., None],
) -> None:
    scripts = {kind: transport._script(kind) for kind in ("fetch", "put_back", "park", "unpark")}
    assert guard in scripts[name].script, f"{name}.lua no longer holds this safeguard in these words"
    scripts[name] = Script(client, scripts[name].script.replace(guard, instead))
    monkeypatch.setattr(transport, "_script", scripts.__getitem__)

    with pytest.raises(AssertionError):
        watch(client)


def all_or_nothing(park: Callable[..., None]) -> Callable[..., None]:
    """Messages wait with one of them that is still on its queue."""

    def park_all(qos: transport.QoS, parked: dict[str, Park]) -> None:
        if not any(qos.channel.does_once_taken(tag, partial(park, qos, parked)) for tag in parked):
            park(qos, parked)

    return park_all


OFF: list[tuple[str, type, str, Callable[..., Any], Callable[..., None]]] = [
    (
        "only what is left to us is begun before it is taken",
        transport.Channel,
        "_may_begin_with",
        lambda *_: True,
        partial(test_a_message_is_taken_before_it_is_begun_where_others_might_take_it, why={"for_ms": 1}),
    ),
    (
        "what is begun before it is taken leaves a place",
        transport.Channel,
        "_may_begin_with",
        lambda *_: True,
        partial(test_a_message_is_taken_before_it_is_begun_where_others_might_take_it, why={"prefetch": 1}),
    ),
    (
        "what was done last is said at the end",
        transport.QoS,
        "restore_unacked_once",
        virtual.QoS.restore_unacked_once,
        test_acknowledgements_that_wait_at_the_end_are_sent,
    ),
    (
        "what is returned with what was not taken yet does not wait for it",
        transport.QoS,
        "park",
        all_or_nothing(transport.QoS.park),
        test_others_that_are_parked_with_it_do_not_wait_for_it,
    ),
    (
        "what is returned before it was taken waits for that",
        transport.Channel,
        "does_once_taken",
        lambda *_: False,
        test_what_is_parked_before_it_was_taken_is_parked_once_it_is,
    ),
    (
        "what is dropped before it was taken waits for that",
        transport.Channel,
        "does_once_taken",
        lambda *_: False,
        test_what_is_rejected_before_it_was_taken_is_dropped_once_it_is,
    ),
    (
        "what was done is taken at the end",
        transport.Channel,
        "take_shown",
        lambda _: None,
        partial(test_what_was_begun_at_the_end_stays_on_the_queue_if_it_was_not_done, is_done=True),
    ),
    (
        "a message with an acknowledgement is no longer in hand",
        transport.QoS,
        "has_nothing_in_hand",
        lambda qos: not qos._delivered,
        test_whoever_ends_lone_messages_keeps_up,
    ),
]


@pytest.mark.parametrize(
    ("where", "guard", "instead", "watch"), [row[1:] for row in OFF], ids=[row[0] for row in OFF]
)
def test_with_its_safeguard_off_the_test_that_watches_it_turns_red(
    client: "redis.Redis",
    monkeypatch: pytest.MonkeyPatch,
    where: type,
    guard: str,
    instead: Callable[..., Any],
    watch: Callable[..., None],
) -> None:
    monkeypatch.setattr(where, guard, instead)

    with pytest.raises(AssertionError):
        watch(client)
