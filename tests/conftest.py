"""What every test stands on: a real Redis and a real PostgreSQL, started before Django reads its settings.

They and every `tmp_path` live in one temporary folder, which goes when the tests end.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

import django
import pytest
import redis
from django.core.management import call_command
from django.db import connections

from tests.running import System
from workers.embedded import PostgresServer, RedisServer

_servers = ExitStack()
_folder = Path(tempfile.mkdtemp(prefix="reserva-tests-"))
_servers.callback(shutil.rmtree, _folder)


def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest's own temporary folders with ours, and so from staying behind."""
    config.option.basetemp = config.option.basetemp or _folder / "tests"


def pytest_unconfigure() -> None:
    """Also after Ctrl-C."""
    _servers.close()


try:
    _redis = _servers.enter_context(RedisServer(_folder / "redis"))
    _postgres = _servers.enter_context(PostgresServer(_folder / "postgres"))
except BaseException:
    _servers.close()
    raise

os.environ |= {
    "DJANGO_SETTINGS_MODULE": "shop.settings",
    "DATABASE_URL": _postgres.url,
    "REDIS_URL": _redis.url,
    "CELERY_BROKER_URL": _redis.url,
    "SECRET_KEY": secrets.token_urlsafe(32),
    "ORDER_ID_SECRET": secrets.token_urlsafe(32),
    "DATA_DIR": str(_folder),
}
django.setup()


@pytest.fixture(scope="session", autouse=True)
def _migrated_database() -> Iterator[None]:
    call_command("migrate", verbosity=0)
    yield
    connections.close_all()


@pytest.fixture
def client() -> "redis.Redis":
    """Redis, empty at first."""
    from shop.stores import redis_client

    redis_client().flushdb()
    return redis_client()


@pytest.fixture(params=["with locks", "without locks"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Once with locks, once with none taken by orders, movements or reconcile: what a test asserts must not rely on them."""
    from shop import fulfilment, stock

    if request.param == "without locks":
        monkeypatch.setattr(fulfilment, "Rules", partial(fulfilment.Rules, lock_ttl_ms=0))
        monkeypatch.setattr(stock, "locks", lambda *_, **__: nullcontext())
    return str(request.param)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator["System"]:
    """Web, worker and scheduler, running on an empty Redis, shared by the tests of a module."""
    from shop.stores import redis_client

    redis_client().flushdb()
    with System(tmp_path_factory.mktemp("system")) as running:
        yield running.start()


@pytest.fixture
def redis_server() -> RedisServer:
    """The Redis under test, to be stopped and started."""
    return _redis


@pytest.fixture
def postgres_server() -> PostgresServer:
    """The PostgreSQL under test, to be stopped and started."""
    return _postgres
