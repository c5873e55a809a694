"""Processes that have imported what our programs import before they become one: a start takes a fifth of the time.

    python -m tests.preloaded SOCKET

A preloaded process has one thread. For each request it forks, and the fork becomes the program that the request names, as
with `python -m`. Only libraries are imported beforehand, none of our own packages: those read settings as they are
imported. Tests of the start itself start programs from nothing: `tests/test_up.py`, `tests/test_supervisor.py`.
"""

import gc
import importlib
import json
import os
import resource
import runpy
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import IO, Any, Final

from workers.launch import end_with
from workers.processes import Child, Part, spawn

#: What web, worker and scheduler import, and can be imported without settings.
LIBRARIES: Final = (
    "asyncio",
    "billiard.pool",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.beat",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.events.state",
    "celery.loaders.app",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "django.contrib.admin",
    "django.contrib.admin.views.main",
    "django.contrib.auth.tokens",
    "django.contrib.messages.middleware",
    "django.contrib.postgres.fields",
    "django.contrib.postgres.indexes",
    "django.contrib.sessions.middleware",
    "django.contrib.staticfiles.finders",
    "django.contrib.staticfiles.storage",
    "django.core.handlers.asgi",
    "django.core.management.commands.makemigrations",
    "django.core.management.commands.migrate",
    "django.core.serializers.json",
    "django.db.backends.postgresql.base",
    "django.db.migrations.executor",
    "django.db.models",
    "django.forms",
    "django.http",
    "django.middleware.clickjacking",
    "django.middleware.csrf",
    "django.middleware.gzip",
    "django.middleware.security",
    "django.shortcuts",
    "django.template.defaulttags",
    "django.template.loader",
    "django.views.debug",
    "django.views.defaults",
    "django_redis.cache",
    "django_redis.client",
    "environ",
    "httptools",
    "kombu.transport.redis",
    "msgspec.json",
    "prometheus_client",
    "psycopg.types.json",
    "psycopg_pool",
    "redis.asyncio",
    "structlog.stdlib",
    "uvloop",
    "whitenoise",
)
#: A request and its answer are one message each.
MESSAGE_BYTES_MAX: Final = 200_000


class Forked:
    """A process that was forked, as `workers.processes.Process` has it."""

    def __init__(self, pid: int, preloaded: "Preloaded") -> None:
        self.pid = pid
        self._preloaded = preloaded
        self._ending: int | None = None

    @property
    def returncode(self) -> int:
        """How it ended."""
        assert self._ending is not None, "it runs"
        return self._ending

    def poll(self) -> int | None:
        """How it ended, None while it runs."""
        if self._ending is None:
            self._ending = self._preloaded.ending_of(self.pid)
        return self._ending

    def wait(self) -> int:
        """Wait for its end, and tell how it ended."""
        while self.poll() is None:
            time.sleep(0.005)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send it a signal, where it still runs."""
        if self.poll() is None:
            os.kill(self.pid, sig)


class Preloaded:
    """Starts programs of ours, from any thread. They end with it, and it with the process that has started it."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())]
        part = Part(name="preloaded", argv=argv, log=None, env={"PYTHONPATH": os.getcwd()})
        with theirs:
            self._child = Child(part, run=lambda *how: spawn(*how[:-1], [theirs.fileno()]))
        self._lock = threading.Lock()

    def run(
        self, part: Part, env: Mapping[str, str], log: IO[bytes] | None, keep_open: Sequence[int]
    ) -> Forked:
        """Run a part whose program is `python -m MODULE ...`, as `workers.processes.spawn` does."""
        python, option, *argv = part.argv
        assert (python, option, part.user, part.cwd, part.niceness) == (sys.executable, "-m", None, None, 0)
        assert log
        request = {"argv": argv, "env": dict(env), "signal": int(part.orphan_signal), "keep": [*keep_open]}
        request["open_files"] = resource.getrlimit(resource.RLIMIT_NOFILE)
        return Forked(self._asked(request, [log.fileno(), *keep_open]), self)

    def ending_of(self, pid: int) -> int | None:
        """As `subprocess.Popen.poll`."""
        ending: int | None = self._asked({"ended": pid}, [])
        return ending

    def close(self) -> None:
        """End it, and what it runs."""
        self._ours.close()
        self._child.stop()

    def _asked(self, request: Mapping[str, Any], files: Sequence[int]) -> Any:
        with self._lock:
            socket.send_fds(self._ours, [json.dumps(request).encode()], files)
            return json.loads(self._ours.recv(MESSAGE_BYTES_MAX))


@cache
def preloaded() -> Preloaded:
    """The preloaded process of this process of tests, from its first use until the tests end."""
    return Preloaded()


def close() -> None:
    """End the preloaded process, where there is one."""
    if preloaded.cache_info().currsize:
        preloaded().close()
        preloaded.cache_clear()


def serve(theirs: socket.socket) -> Sequence[str] | None:
    """Answer requests. In each fork this returns what it is to run; in the preloaded process itself None, at the end."""
    while True:
        raw, files, _, _ = socket.recv_fds(theirs, MESSAGE_BYTES_MAX, 16)
        if not raw:
            return None
        request = json.loads(raw)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            parent = os.getpid()
            answer = os.fork()
            if not answer:
                theirs.close()
                become(request, files, parent)
                argv: Sequence[str] = request["argv"]
                return argv
        for file in files:
            os.close(file)
        theirs.send(json.dumps(answer).encode())


def become(request: Mapping[str, Any], files: Sequence[int], parent: int) -> None:
    """Become what a program finds itself as after `workers.processes.spawn`."""
    os.setsid()
    end_with(parent, request["signal"])
    os.dup2(files[0], 1)
    os.dup2(files[0], 2)
    for got, wanted in zip(files[1:], request["keep"], strict=True):
        os.dup2(got, wanted)
    for file in {*files} - {1, 2, *request["keep"]}:
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, request["open_files"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[1:1] = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path
    ]


def main(socket_number: str) -> None:
    """Be a preloaded process, or a process that it forked."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    argv = serve(socket.socket(fileno=int(socket_number)))
    if argv:
        sys.argv[:] = argv
        gc.unfreeze()
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1])
