"""A Redis that could lose what it is given is told loudly."""

import logging

import pytest
import redis

from shop.storage_check import warn_about_redis


@pytest.mark.parametrize(
    ("setting", "unsafe", "safe"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendonly", "no", "yes")],
)
def test_unsafe_settings_of_redis_are_told(
    client: "redis.Redis", caplog: pytest.LogCaptureFixture, setting: str, unsafe: str, safe: str
) -> None:
    client.config_set(setting, unsafe)
    try:
        with caplog.at_level(logging.CRITICAL):
            (problem,) = warn_about_redis()
    finally:
        client.config_set(setting, safe)

    assert f"{setting}={unsafe}" in problem
    assert problem in caplog.text


def test_safe_settings_are_not_mentioned(client: "redis.Redis") -> None:
    assert warn_about_redis() == []
