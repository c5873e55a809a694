"""The processes of the web tier: what each of them does from its start to its end."""

import asyncio
import os
import signal
import socket
import sys
from typing import Final

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup(set_prefix=False)

import uvloop  # noqa: E402 - Django must be set up before anything of the shop is imported
from django.conf import settings  # noqa: E402

from shop import figures, intake, queue, replacements, results, storage_check  # noqa: E402
from shop.redis_permissions import Process  # noqa: E402
from shop.stores import order_database, web_database, web_redis  # noqa: E402
from shop.tracing import tracing  # noqa: E402
from shop.web.application import application  # noqa: E402
from shop.web.server import BACKLOG, CONNECTIONS_MAX, HttpServer  # noqa: E402
from workers import prefork, sign_of_life  # noqa: E402
from workers.memory import keep_what_is_loaded  # noqa: E402
from workers.open_files import allow_open_files  # noqa: E402

#: For how long a process that stops still takes requests, in seconds. Long enough for the answers under way.
DRAIN_S: Final = 0.5
#: How long the answers that are under way after that may take, and how long a process may take to end, in seconds.
ANSWER_WITHIN_S: Final = 5.0
STOP_WITHIN_S: Final = 9.0
#: Beside its connections, a process has few files of its own and few connections to the stores.
OPEN_FILES: Final = CONNECTIONS_MAX + 1_800


async def begin() -> None:
    """Make this process ready to take orders, whatever serves them."""
    allow_open_files(OPEN_FILES)
    queue.fulfil_message(queue.EXAMPLE)  # build the template now, not in the first order
    await asyncio.to_thread(storage_check.warn_about_redis)
    await asyncio.to_thread(storage_check.warn_about_memory)
    tracing.begin()
    replacements.report()
    keep_what_is_loaded()


async def end() -> None:
    """Close what this process has open, once no request is under way."""
    await results.close()
    await intake.close()
    await web_database.close()
    await order_database.close()
    await web_redis().aclose()
    await asyncio.to_thread(figures.tally.tell)
    await asyncio.to_thread(tracing.close)


async def _serve(listener: socket.socket) -> None:
    """Take orders until this process is told to stop (SIGTERM, SIGINT); told twice, it hurries."""
    await begin()
    server = HttpServer(
        application,
        head_timeout_s=settings.HEAD_TIMEOUT_S,
        body_timeout_s=settings.BODY_TIMEOUT_S,
        body_bytes_max=settings.MAX_BODY_BYTES,
    )
    told, told_again = asyncio.Event(), asyncio.Event()

    def hear() -> None:
        (told_again if told.is_set() else told).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        server.loop.add_signal_handler(number, hear)
    await server.start(listener)
    sys.stderr.write(f"process {os.getpid()} takes requests\n")
    await told.wait()
    sign_of_life.say_goodbye()
    results.settlements.release()  # whoever waits for a result is answered
    await server.stop(drain=_at_most(DRAIN_S, told_again), within_s=ANSWER_WITHIN_S)
    await end()


async def _at_most(seconds: float, event: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def run(listener: socket.socket) -> None:
    """One process of the web tier, from its fork to its end."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(listener))


def run_all(host: str, port: int, processes: int) -> None:
    """The whole web tier, until it is told to stop.

    Raises OSError where it can't listen, SystemExit where Redis refuses what it needs.
    """
    storage_check.insist(Process.WEB)
    listener = prefork.listen(host, port, BACKLOG)
    keep_what_is_loaded()
    prefork.serve(run, listener, part="web", processes=processes, stop_within_s=STOP_WITHIN_S)
