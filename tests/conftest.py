"""What every test stands on: a real Redis and a real PostgreSQL, started before Django reads its settings.

They and every `tmp_path` live in one temporary folder, which goes when the tests end.
"""

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import django
import pytest
import redis
from django.core.management import call_command
from django.db import connections
from xdist.scheduler import LoadScopeScheduling

from tests import depth, preloaded, programs
from tests.running import System
from workers.embedded import PostgresServer, RedisServer
from workers.processes import run_to_end

#: Files whose tests share nothing but the servers: each of these tests goes to the next process that is free. One process
#: runs all tests of any other file, which share what they have started.
APART = {
    "test_chaos_run.py",
    "test_interleavings.py",
    "test_state_machine.py",
    "test_survival.py",
    "test_transport.py",
}
#: What takes longest begins first, so that no process is left with it when the others are done.
SLOWEST = (
    "test_chaos_run.py",
    "test_state_machine.py",
    "browser",
    "test_interrupted.py",
    "test_transport.py",
    "test_survival.py",
    "test_documentation.py",
    "test_benchmarks.py",
    "test_up.py",
    "test_admin.py",
    "test_deploys.py",
    "test_schemathesis.py",
    "test_interleavings.py",
)

collect_ignore_glob = list(programs.uncollected(programs.ALL))

_REDIS: pytest.StashKey[RedisServer] = pytest.StashKey()
_POSTGRES: pytest.StashKey[PostgresServer] = pytest.StashKey()
#: The folder of a server that has migrated, and does not run, for each process that runs tests to copy.
_MIGRATED: pytest.StashKey[Path] = pytest.StashKey()
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
    try:
        if is_one_of_many or not getattr(config.option, "numprocesses", None):
            _start_servers(config, folder)
        else:
            config.stash[_MIGRATED] = _migrated(folder / "postgres")
    except BaseException:
        _servers.close()
        raise


def _migrated(folder: Path) -> Path:
    """Let a PostgreSQL create its folder, migrate it, and stop."""
    with PostgresServer(folder, syncs=False) as postgres:
        nowhere = "redis://127.0.0.1:1/0"
        env = {"DATABASE_URL": postgres.url, "REDIS_URL": nowhere, "CELERY_BROKER_URL": nowhere}
        env |= {"SECRET_KEY": secrets.token_urlsafe(32), "ORDER_ID_SECRET": secrets.token_urlsafe(32)}
        run_to_end([sys.executable, "manage.py", "migrate", "--verbosity=0"], env=env)
    return folder


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process that runs tests the next ones that belong together."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        folder, _, name = path.rpartition("/")
        if name in APART:
            return nodeid
        return folder if folder.endswith("/browser") else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """Say who gives out the tests."""
    return Together(config, log)


def pytest_configure_node(node: Any) -> None:
    """Tell a process that is going to run tests what it may copy."""
    node.workerinput["migrated"] = str(node.config.stash[_MIGRATED])


def _start_servers(config: pytest.Config, folder: Path) -> None:
    if migrated := getattr(config, "workerinput", {}).get("migrated"):
        shutil.copytree(migrated, folder / "postgres")
    # They are killed, but nobody cuts their power: tests that do run others.
    running_redis = _servers.enter_context(RedisServer(folder / "redis", append_fsync="no"))
    postgres = _servers.enter_context(PostgresServer(folder / "postgres", syncs=False))
    config.stash[_REDIS], config.stash[_POSTGRES] = running_redis, postgres
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
    """Begin with what takes longest."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    places = {item.path.name, item.path.parent.name}
    return next((rank for rank, place in enumerate(SLOWEST) if place in places), len(SLOWEST))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count what is left to `make test-all`."""
    depth.leave(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that reports how many tests were left."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = depth.left()


def pytest_testnodedown(node: Any) -> None:
    """Hear how many tests were left."""
    depth.hear(getattr(node, "workeroutput", {}).get("left", 0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    for left_out in (programs.left_out(programs.ALL), depth.left_out()):
        if left_out:
            terminalreporter.write_line(left_out, yellow=True)


def pytest_unconfigure() -> None:
    """Also after Ctrl-C."""
    preloaded.close()
    _servers.close()


@pytest.fixture(scope="session", autouse=True)
def _migrated_database() -> Iterator[None]:
    call_command("migrate", verbosity=0)  # where it was copied there is little to do
    yield
    connections.close_all()


@pytest.fixture(scope="module", autouse=True)
def _redis_of_its_own() -> None:
    """Each module begins with an empty Redis: what another one left there may be of a PostgreSQL that went back."""
    from shop.stores import redis_client

    redis_client().flushdb()


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
