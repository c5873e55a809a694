"""Redis's append-only file is rewritten when few orders come, and left alone in a sale."""

from collections.abc import Iterator

import pytest
import redis

from shop import compaction
from shop.compaction import QUIET_BYTES_PER_S, compact_when_quiet
from tests.builders import wait_until


@pytest.fixture
def grown(client: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> Iterator["redis.Redis"]:
    """A Redis whose file has grown to several times what is in it."""
    rewrite(client)
    monkeypatch.setattr(compaction, "WORTH_IT_BYTES", file_of(client)["aof_base_size"] + 400_000)
    for _ in range(5):
        client.set("cache:of the test", "x" * 100_000)
    yield client
    wait_until(lambda: not file_of(client)["aof_rewrite_in_progress"], what="the end of a rewrite")


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


def quiet(client: "redis.Redis") -> bool:
    """Whether little was read of late."""
    return read_bytes_per_s(client) < QUIET_BYTES_PER_S


def test_in_a_quiet_moment_a_file_that_has_doubled_is_rewritten(grown: "redis.Redis") -> None:
    wait_until(lambda: quiet(grown), what="a quiet moment")

    has_begun = compact_when_quiet(grown)

    assert has_begun
    wait_until(lambda: file_of(grown)["aof_current_size"] < 400_000, what="a smaller file")


def test_in_a_sale_it_is_not(grown: "redis.Redis") -> None:
    def busy() -> bool:
        grown.set("cache:of the test", "x" * 1_000_000)
        return not quiet(grown)

    wait_until(busy, what="many bytes a second")

    assert not compact_when_quiet(grown)
    assert not file_of(grown)["aof_rewrite_in_progress"]


def test_a_file_that_is_hardly_larger_than_what_is_in_it_is_left_alone(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set("cache:of the test", "x" * 200_000)
    rewrite(client)
    monkeypatch.setattr(compaction, "WORTH_IT_BYTES", 1)
    wait_until(lambda: quiet(client), what="a quiet moment")

    assert not compact_when_quiet(client)


def test_a_redis_that_lets_nobody_ask_for_it_is_left_alone(grown: "redis.Redis") -> None:
    grown.acl_setuser("default", commands=["-bgrewriteaof"])
    wait_until(lambda: quiet(grown), what="a quiet moment")
    try:
        assert not compact_when_quiet(grown)
    finally:
        grown.acl_setuser("default", commands=["+bgrewriteaof"])
