"""Redis and PostgreSQL over TLS, by the addresses that docs/go-live.md shows: orders flow, and strangers are not trusted."""

import asyncio
import ssl
import threading
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import trustme

from tests.builders import a_sku
from tests.running import System
from workers.embedded import PostgresServer, RedisServer
from workers.ports import LOOPBACK, free_port


class TlsEntrance:
    """Takes TLS off and passes everything on to a server. Works in a thread of its own."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self.port = free_port()
        self._server = urlsplit(url)
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_open.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._closing = asyncio.Event()
        async with await asyncio.start_server(
            self._pass_on, LOOPBACK, self.port, ssl=self._context
        ) as server:
            self._is_open.set()
            await self._closing.wait()
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        inner_reader, inner_writer = await asyncio.open_connection(self._server.hostname, self._server.port)
        ways: list[Coroutine[Any, Any, None]] = [_pipe(reader, inner_writer), _pipe(inner_reader, writer)]
        try:
            await asyncio.gather(*ways)
        finally:
            inner_writer.close()
            writer.close()
            self._tasks.discard(task)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


class Addresses:
    """Both servers behind TLS; `ca`: the file of the authority that vouches for them."""

    def __init__(self, redis_url: str, database_url: str, ca: Path) -> None:
        self.redis_url = redis_url
        self.database_url = database_url
        self.ca = ca


@pytest.fixture
def behind_tls(
    tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> Iterator[Addresses]:
    authority = trustme.CA()
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["postgresql"])
    authority.issue_cert("localhost").configure_cert(context)
    stores = redis_server.url, postgres_server.url
    with TlsEntrance(stores[0], context) as to_redis, TlsEntrance(stores[1], context) as to_postgres:
        redis_url, database_url = (
            url.replace(f"{urlsplit(url).hostname}:{urlsplit(url).port}", f"localhost:{entrance.port}")
            for url, entrance in zip(stores, (to_redis, to_postgres), strict=True)
        )
        yield Addresses(
            redis_url=redis_url.replace("redis://", "rediss://"),
            # This PostgreSQL speaks no TLS of its own, so nobody is there to be asked whether it does.
            database_url=f"{database_url}?sslnegotiation=direct&sslmode=verify-full",
            ca=ca,
        )


def test_orders_flow_over_tls(behind_tls: Addresses, tmp_path: Path) -> None:
    env = {
        "REDIS_URL": f"{behind_tls.redis_url}?ssl_ca_certs={behind_tls.ca}",
        "CELERY_BROKER_URL": "",
        "DATABASE_URL": f"{behind_tls.database_url}&sslrootcert={behind_tls.ca}",
    }
    sku = a_sku(stock=10)

    with System(tmp_path, env) as system:
        system.start()
        ends = [system.end_of(system.place((sku, 8)).body["id"]).body["status"] for _ in range(2)]

    assert sorted(ends) == ["confirmed", "rejected"]


def test_a_server_that_nobody_vouches_for_is_not_trusted(behind_tls: Addresses) -> None:
    with pytest.raises(redis.exceptions.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        redis.Redis.from_url(behind_tls.redis_url).ping()
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(f"{behind_tls.database_url}&sslrootcert=system")
