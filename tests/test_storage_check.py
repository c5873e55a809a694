"""A Redis that could lose what it is given is told loudly, and a PostgreSQL that is too old before it is relied on."""

import logging

import pytest
import redis
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from shop import storage_check
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


def test_migrate_refuses_a_postgresql_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_check, "POSTGRESQL_AT_LEAST", 1_000)

    with pytest.raises(SystemCheckError, match=r"PostgreSQL \d+ is too old: 1000 or newer is needed"):
        call_command("migrate", verbosity=0, skip_checks=False)


def test_migrate_takes_a_postgresql_that_is_new_enough() -> None:
    call_command("migrate", verbosity=0, skip_checks=False)
