"""Redis's append-only file is rewritten when few orders come, and left alone in a sale."""

import math
import os
import signal
from collections.abc import Iterator

import pytest
import redis
from structlog.testing import capture_logs

from shop import compaction
from shop.compaction import compact_when_quiet, is_due
from tasks import maintenance
from tests.builders import wait_until
from workers.proc import descendants

IDLE, QUIET = compaction.MOMENTS[0][1], compaction.MOMENTS[1][1]


@pytest.fixture
def grown(client: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> Iterator["redis.Redis"]:
    """A Redis whose file has grown to several times what is in it."""
    rewrite(client)
    size = file_of(client)["aof_base_size"]
    monkeypatch.setattr(compaction, "MOMENTS", ((size + 400_000, IDLE), (size + 3_000_000, QUIET)))
    grow(client, 500_000)
    yield client
    wait_until(lambda: not file_of(client)["aof_rewrite_in_progress"], what="the end of a rewrite")


def grow(client: "redis.Redis", written: int) -> None:
    """Let the file grow by so many bytes, and Redis have a little more in it than before."""
    for _ in range(written // 100_000):
        client.set("cache:of the test", "x" * 100_000)


def file_of(client: "redis.Redis") -> dict[str, int]:
    """What Redis says of its file."""
    return dict(client.info("persistence"))


def rewrite(client: "redis.Redis") -> None:
    """Have the file rewritten, and wait for it."""
    client.bgrewriteaof()
    wait_until(lambda: not file_of(client)["aof_rewrite_in_progress"], what="the end of a rewrite")


def read_bytes_per_s(client: "redis.Redis") -> float:
    """What Redis has read of late."""
    return float(client.info("stats")["instantaneous_input_kbps"]) * 1024


def idle(client: "redis.Redis") -> bool:
    """Whether hardly anything was read of late."""
    return read_bytes_per_s(client) < IDLE


def test_in_an_idle_moment_a_file_that_has_doubled_is_rewritten(grown: "redis.Redis") -> None:
    wait_until(lambda: idle(grown), what="an idle moment")

    has_begun = compact_when_quiet(grown)

    assert has_begun
    wait_until(lambda: file_of(grown)["aof_current_size"] < 400_000, what="a smaller file")


def test_a_rewrite_is_due_until_it_has_been_made(grown: "redis.Redis") -> None:
    key_s = grown.config_get("rdb-key-save-delay")["rdb-key-save-delay"]
    before = is_due(grown)
    grown.config_set("rdb-key-save-delay", 300_000)  # microseconds for each key
    try:
        grown.bgrewriteaof()
        under_way = file_of(grown)["aof_rewrite_in_progress"], is_due(grown)
    finally:
        grown.config_set("rdb-key-save-delay", key_s)
    wait_until(lambda: not file_of(grown)["aof_rewrite_in_progress"], what="the end of a rewrite")

    assert (before, under_way, is_due(grown)) == (True, (1, True), False)


def test_a_sweep_looks_for_such_a_moment(grown: "redis.Redis") -> None:
    wait_until(lambda: idle(grown), what="an idle moment")

    maintenance.sweep()

    wait_until(lambda: file_of(grown)["aof_current_size"] < 400_000, what="a smaller file")


def test_a_rewrite_that_failed_is_not_asked_for_at_each_sweep(grown: "redis.Redis") -> None:
    key_s = grown.config_get("rdb-key-save-delay")["rdb-key-save-delay"]
    grown.config_set(
        "rdb-key-save-delay", 10_000_000
    )  # so long, in microseconds, does each key take to write
    try:
        grown.bgrewriteaof()
        (child,) = descendants(grown.info("server")["process_id"])
        os.kill(child, signal.SIGKILL)
    finally:
        grown.config_set("rdb-key-save-delay", key_s)
    wait_until(lambda: file_of(grown)["aof_last_bgrewrite_status"] == "err", what="the end of the rewrite")
    wait_until(lambda: idle(grown), what="an idle moment")

    assert not compact_when_quiet(grown)


def test_the_larger_the_file_the_less_quiet_a_moment_has_to_be(
    grown: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    size = file_of(grown)["aof_current_size"]
    never, always = -1, math.inf
    monkeypatch.setattr(compaction, "MOMENTS", ((size, never), (size + 1_000_000, always)))
    has_begun_small = compact_when_quiet(grown)
    grow(grown, 1_000_000)

    has_begun_large = compact_when_quiet(grown)

    assert (has_begun_small, has_begun_large) == (False, True)


def test_in_a_sale_it_is_not(grown: "redis.Redis") -> None:
    # Redis tells the mean of one and a half seconds.
    grown.set("cache:of the test", "x" * 10_000_000)
    wait_until(lambda: read_bytes_per_s(grown) > 2 * QUIET, what="many bytes a second")

    assert not compact_when_quiet(grown)
    assert not file_of(grown)["aof_rewrite_in_progress"]


def test_a_file_that_is_hardly_larger_than_what_is_in_it_is_left_alone(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set("cache:of the test", "x" * 200_000)
    rewrite(client)
    monkeypatch.setattr(compaction, "MOMENTS", ((1, QUIET),))
    wait_until(lambda: idle(client), what="an idle moment")

    assert not compact_when_quiet(client)


def test_a_redis_that_lets_nobody_ask_for_it_is_left_alone_and_told_of_once(grown: "redis.Redis") -> None:
    grown.execute_command("ACL", "SETUSER", "guest", "on", ">secret", "~*", "+@all", "-bgrewriteaof")
    address = grown.connection_pool.connection_kwargs
    wait_until(lambda: idle(grown), what="an idle moment")
    try:
        with redis.Redis(
            host=address["host"],
            port=address["port"],
            username="guest",
            password="secret",
            decode_responses=True,
        ) as guest:
            assert guest.info("persistence")["aof_enabled"]
            with capture_logs() as told:
                has_begun = [compact_when_quiet(guest) for _ in range(3)]
    finally:
        grown.acl_deluser("guest")

    assert has_begun == [False] * 3
    assert len(told) == 1
