"""What every test stands on: a real Redis and a real PostgreSQL, started before Django reads its settings.

They and every `tmp_path` live in one temporary folder, which goes when the tests end.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import django
import pytest
import redis
from django.core.management import call_command
from django.db import connections

from tests import programs
from tests.running import System
from workers.embedded import PostgresServer, RedisServer

#: Half a minute each, and more.
SLOWEST = {
    "test_chaos_run.py",
    "test_deploys.py",
    "test_interleavings.py",
    "test_schemathesis.py",
    "test_state_machine.py",
    "test_survival.py",
    "test_transport.py",
}

collect_ignore_glob = list(programs.uncollected(programs.ALL))

_REDIS: pytest.StashKey[RedisServer] = pytest.StashKey()
_POSTGRES: pytest.StashKey[PostgresServer] = pytest.StashKey()
_servers = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers: with `pytest --numprocesses`, for each process that runs tests.

    pytest's own temporary folders are kept with ours, and so from staying behind.
    """
    is_one_of_many = hasattr(config, "workerinput")
    folder = Path(tempfile.mkdtemp(prefix="reserva-tests-"))
    _servers.callback(shutil.rmtree, folder)
    if is_one_of_many or not config.option.basetemp:
        config.option.basetemp = folder / "tests"
    if not is_one_of_many and getattr(config.option, "numprocesses", None):
        return
    try:
        _start_servers(config, folder)
    except BaseException:
        _servers.close()
        raise


def _start_servers(config: pytest.Config, folder: Path) -> None:
    config.stash[_REDIS] = running_redis = _servers.enter_context(RedisServer(folder / "redis"))
    config.stash[_POSTGRES] = postgres = _servers.enter_context(PostgresServer(folder / "postgres"))
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "DATABASE_URL": postgres.url,
        "REDIS_URL": running_redis.url,
        "CELERY_BROKER_URL": running_redis.url,
        "SECRET_KEY": secrets.token_urlsafe(32),
        "ORDER_ID_SECRET": secrets.token_urlsafe(32),
        "DATA_DIR": str(folder),
    }
    django.setup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left with one of them when the others are done."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    if left_out := programs.left_out(programs.ALL):
        terminalreporter.write_line(left_out, yellow=True)


def pytest_unconfigure() -> None:
    """Also after Ctrl-C."""
    _servers.close()


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
    """Once with locks, once with none taken: what a test asserts must not rely on them."""
    from shop import fulfilment

    if request.param == "without locks":
        monkeypatch.setattr(fulfilment, "Rules", partial(fulfilment.Rules, lock_ttl_ms=0))
    return str(request.param)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator["System"]:
    """Web, worker and scheduler, running on an empty Redis, shared by the tests of a module."""
    from shop.stores import redis_client

    redis_client().flushdb()
    with System(tmp_path_factory.mktemp("system")) as running:
        yield running.start()


@pytest.fixture
def redis_server(pytestconfig: pytest.Config) -> RedisServer:
    """The Redis under test, to be stopped and started."""
    return pytestconfig.stash[_REDIS]


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> PostgresServer:
    """The PostgreSQL under test, to be stopped and started."""
    return pytestconfig.stash[_POSTGRES]
