"""A shop whose PostgreSQL is reached through one address, and servers that take its place: a replica, backups, copies."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

import psycopg
from django.db import connection

from tests.builders import wait_until
from tests.chaos.proxy import FaultProxy
from tests.running import System
from workers.embedded import PostgresServer
from workers.ports import LOOPBACK, free_port


class Site:
    """Web, worker and scheduler, run for a test, and the server that their address of PostgreSQL leads to.

    Django's connection in this process goes the same way. `now`: the server that is in place.
    """

    def __init__(self, folder: Path, first: PostgresServer) -> None:
        self.folder = folder
        self.now = self.first = first
        self.way = FaultProxy((LOOPBACK, first.port))
        url = first.url.replace(f":{first.port}/", f":{self.way.port}/")
        self.system = System(folder, env={"DATABASE_URL": url, "LOG_LEVEL": "WARNING"})

    def __enter__(self) -> Self:
        self.way.__enter__()
        self._reach(self.way.port)
        self.system.__enter__()
        self.system.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.system.__exit__()
        self.way.__exit__()
        if self.now is not self.first:
            self.now.stop()
            self.first.start()
        self._reach(self.first.port)

    def _reach(self, port: int) -> None:
        connection.close()
        connection.settings_dict["PORT"] = port

    def run(self, *command: str) -> None:
        """Run one of PostgreSQL's own programs."""
        path = f"{self.now.programs}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PGPASSWORD": self.now.password}
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=60)

    def beside(self, name: str) -> Path:
        """The folder of another server with the same password, which has no data yet."""
        folder = self.folder / f"{name}-{free_port()}"
        folder.mkdir(mode=0o700)
        shutil.copy(self.now.folder / "password", folder / "password")
        return folder

    def base_backup(self, name: str, *options: str) -> Path:
        """A base backup of the server in place, while it works; the folder of a server that may start from it."""
        folder = self.beside(name)
        server = ["-h", LOOPBACK, "-p", str(self.now.port), "-U", self.now.name]
        self.run("pg_basebackup", *server, "-D", str(folder / "cluster"), "--checkpoint=fast", *options)
        return folder

    def replica(self, link: FaultProxy) -> PostgresServer:
        """A replica of the server in place that follows it through `link`."""
        folder = self.base_backup("replica")
        primary = f"host={LOOPBACK} port={link.port} user={self.now.name} password={self.now.password}"
        (folder / "cluster" / "standby.signal").touch()
        with (folder / "cluster" / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = '{primary}'\n")
        return PostgresServer(folder).start()

    def cold_copy(self) -> Path:
        """A copy of the data of the server in place, which stands still meanwhile."""
        folder = self.beside("copy")
        self.now.stop()
        shutil.copytree(self.now.folder / "cluster", folder / "cluster")
        self.now.start()
        return folder

    def lose(self) -> None:
        """End the server in place, at once; it does not come back."""
        os.kill(self.now.pid, signal.SIGKILL)
        self.now.stop()

    def goes_on_with(self, server: PostgresServer) -> None:
        """Lead to another server from now on."""
        self.now = server
        self.way.lead_to((LOOPBACK, server.port))


def promote(replica: PostgresServer) -> None:
    """Have a replica take writes."""
    with psycopg.connect(replica.url, autocommit=True) as superuser:
        assert superuser.execute("SELECT pg_promote()").fetchone() == (True,)


def streams(replica: PostgresServer) -> None:
    """Wait until a replica follows its primary."""

    def is_streaming() -> bool:
        with psycopg.connect(replica.url) as asked:
            return bool(
                asked.execute("SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'").fetchone()
            )

    wait_until(is_streaming, what="the replica to follow")


def known_to(server: PostgresServer, column: str, ids: set[str]) -> set[str]:
    """Which of these orders (`order`) or requests of stock movements (`movement`) a server has a row of."""
    statements = {
        "order": "SELECT id::text FROM shop_order WHERE id = ANY(%s::uuid[])",
        "movement": "SELECT request::text FROM shop_stockmovement WHERE request = ANY(%s::uuid[])",
    }
    with psycopg.connect(server.url) as asked:
        return {found for (found,) in asked.execute(statements[column], [list(ids)])}
