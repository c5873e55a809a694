"""The fault proxy, before a real Redis and a real PostgreSQL: it does what it is told, and is a good way otherwise."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import redis

from tests.builders import wait_until
from tests.chaos.proxy import FaultProxy, Trouble
from workers.embedded import PostgresServer, RedisServer
from workers.ports import LOOPBACK

KEY = "chaos-proxy"


@pytest.fixture
def redis_way(redis_server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy((LOOPBACK, redis_server.port)) as proxy:
        yield proxy


@pytest.fixture
def postgres_way(postgres_server: PostgresServer) -> Iterator[FaultProxy]:
    with FaultProxy((LOOPBACK, postgres_server.port)) as proxy:
        yield proxy


@pytest.fixture
def through(
    redis_way: FaultProxy, redis_server: RedisServer, client: "redis.Redis"
) -> Iterator["redis.Redis"]:
    """A client that asks each thing once, through the proxy, over one connection."""
    with redis.Redis(
        host=LOOPBACK,
        port=redis_way.port,
        password=redis_server.password,
        socket_timeout=0.5,
        socket_connect_timeout=0.5,
        retry=None,
        single_connection_client=True,
    ) as asking:
        asking.ping()
        yield asking


def connected(way: FaultProxy, server: PostgresServer) -> psycopg.Connection:
    """A connection to PostgreSQL through the proxy."""
    return psycopg.connect(
        host=LOOPBACK,
        port=way.port,
        dbname=server.name,
        user=server.name,
        password=server.password,
        autocommit=True,
    )


def took_s(act: Callable[[], Any]) -> float:
    """How long something takes."""
    began = time.monotonic()
    act()
    return time.monotonic() - began


def test_a_good_way_passes_on_what_is_large(through: "redis.Redis") -> None:
    large = bytes(range(256)) * 4096

    through.set(KEY, large)

    assert through.get(KEY) == large


def test_a_slow_way_is_slow_in_each_direction_and_then_fast_again(
    redis_way: FaultProxy, through: "redis.Redis"
) -> None:
    redis_way.trouble(Trouble(delay_s=0.1))
    assert took_s(through.ping) >= 0.2

    redis_way.heal()

    assert took_s(through.ping) < 0.1


def test_what_was_sent_on_a_silent_way_arrives_late_though_the_sender_gave_up(
    redis_way: FaultProxy, through: "redis.Redis", client: "redis.Redis"
) -> None:
    redis_way.trouble(Trouble(is_silent=True))
    with pytest.raises(redis.TimeoutError):
        through.set(KEY, "late")
    assert client.get(KEY) is None

    redis_way.heal()

    wait_until(lambda: client.get(KEY) == "late", what="the late command")


def test_a_silent_way_accepts_connections_and_says_nothing(
    redis_way: FaultProxy, through: "redis.Redis", redis_server: RedisServer
) -> None:
    redis_way.trouble(Trouble(is_silent=True))
    options = {"password": redis_server.password, "socket_timeout": 0.3, "retry": None}

    with (
        redis.Redis(host=LOOPBACK, port=redis_way.port, **options) as late,
        pytest.raises(redis.TimeoutError),
    ):
        late.ping()


def test_a_command_runs_whose_reply_is_lost_and_healing_resets_the_connection(
    redis_way: FaultProxy, through: "redis.Redis", client: "redis.Redis"
) -> None:
    held = through.connection
    redis_way.trouble(Trouble(loses_replies=True))
    held.send_command("INCR", KEY)
    wait_until(lambda: redis_way.gaps, what="the loss of the reply")
    assert client.get(KEY) == "1"

    redis_way.heal()

    with pytest.raises(redis.ConnectionError):
        held.read_response()
    assert through.ping()


def test_a_command_that_is_lost_never_runs(
    redis_way: FaultProxy, through: "redis.Redis", client: "redis.Redis"
) -> None:
    redis_way.trouble(Trouble(loses_commands=True))
    with pytest.raises(redis.TimeoutError):
        through.set(KEY, "lost")

    redis_way.heal()

    assert through.ping()
    assert client.get(KEY) is None


def test_a_reset_breaks_open_connections_and_lets_new_ones_in(
    redis_way: FaultProxy, through: "redis.Redis"
) -> None:
    assert redis_way.reset() == 1

    with pytest.raises(redis.ConnectionError):
        through.ping()
    assert through.ping()


def test_a_way_that_refuses_is_closed_to_new_connections_alone(
    redis_way: FaultProxy, through: "redis.Redis", redis_server: RedisServer
) -> None:
    options = {"password": redis_server.password, "retry": None}
    redis_way.trouble(Trouble(refuses=True))

    assert through.ping()
    with redis.Redis(host=LOOPBACK, port=redis_way.port, **options) as other:
        with pytest.raises(redis.ConnectionError):
            other.ping()
        redis_way.heal()
        assert other.ping()


def test_a_trickling_way_lets_so_many_bytes_pass_in_a_second(
    redis_way: FaultProxy, through: "redis.Redis", client: "redis.Redis"
) -> None:
    client.set(KEY, "x" * 1000)
    redis_way.trouble(Trouble(bytes_per_s=5_000))

    assert took_s(lambda: through.get(KEY)) >= 0.15


def test_trouble_has_its_share_of_the_connections(redis_way: FaultProxy, redis_server: RedisServer) -> None:
    options = {"password": redis_server.password, "retry": None, "single_connection_client": True}
    clients = [redis.Redis(host=LOOPBACK, port=redis_way.port, **options) for _ in range(30)]

    broken = redis_way.reset(0.5)

    assert 5 < broken < 25
    wait_until(lambda: redis_way.connections == 30 - broken, what="the others to stay")
    for each in clients:
        each.close()


def test_a_commit_is_made_and_its_reply_cut(
    postgres_way: FaultProxy, postgres_server: PostgresServer
) -> None:
    with connected(postgres_way, postgres_server) as connection:
        connection.execute("CREATE TABLE cut_at_commit (number int)")
        connection.execute("SELECT 1")
        postgres_way.trouble(Trouble(cuts_commits=1))
        assert connection.execute("SELECT count(*) FROM cut_at_commit").fetchone() == (0,)

        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO cut_at_commit VALUES (%s)", [1])

    with connected(postgres_way, postgres_server) as connection:
        assert postgres_way.commits_cut == 1
        assert connection.execute("SELECT count(*) FROM cut_at_commit").fetchone() == (1,)
        connection.execute("INSERT INTO cut_at_commit VALUES (2)")
        connection.execute("DROP TABLE cut_at_commit")


def test_a_prepared_statement_is_cut_too(postgres_way: FaultProxy, postgres_server: PostgresServer) -> None:
    with connected(postgres_way, postgres_server) as connection:
        connection.execute("CREATE TABLE cut_at_commit (number int)")
        insert = "INSERT INTO cut_at_commit VALUES (%s)"
        for number in range(3):
            connection.execute(insert, [number], prepare=True)
        postgres_way.trouble(Trouble(cuts_commits=1))

        with pytest.raises(psycopg.OperationalError):
            connection.execute(insert, [3], prepare=True)

    with connected(postgres_way, postgres_server) as connection:
        assert connection.execute("SELECT count(*) FROM cut_at_commit").fetchone() == (4,)
        connection.execute("DROP TABLE cut_at_commit")


def test_a_server_that_is_away_is_away_through_the_proxy(redis_server: RedisServer) -> None:
    with (
        FaultProxy((LOOPBACK, 1)) as proxy,
        redis.Redis(host=LOOPBACK, port=proxy.port, retry=None) as asking,
        pytest.raises(redis.ConnectionError),
    ):
        asking.ping()


def test_nothing_stays_behind(redis_server: RedisServer) -> None:
    before = threading.active_count()
    with FaultProxy((LOOPBACK, redis_server.port)) as proxy:
        proxy.trouble(Trouble(is_silent=True))
        held = redis.Redis(host=LOOPBACK, port=proxy.port, socket_timeout=0.1, retry=None)
        with pytest.raises(redis.TimeoutError):
            held.ping()

    assert threading.active_count() == before
    with pytest.raises(redis.ConnectionError):
        held.ping()
    held.close()
