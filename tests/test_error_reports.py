"""Errors reach Sentry where it is wished for, and nothing of it is loaded elsewhere."""

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.builders import a_sku, wait_until
from tests.failing import FailPoints
from tests.running import System


@contextmanager
def a_sentry() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A place that takes Sentry's envelopes: its DSN, and the events that came."""
    events: list[dict[str, Any]] = []

    class Intake(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            items = [msgspec.json.decode(line) for line in body.splitlines()]
            events.extend(item for item in items if item.get("logentry"))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Intake) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://key@127.0.0.1:{server.server_address[1]}/1", events
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("client")  # no order of another test may come in between
def test_an_error_of_a_worker_reaches_sentry_with_its_order_and_its_traceback(tmp_path: Path) -> None:
    with a_sentry() as (dsn, events):
        env = {"SENTRY_DSN": dsn, "FAIL_POINTS": str(tmp_path), "no_proxy": "*"}
        with System(tmp_path, env) as system:
            system.start("web", "worker")
            points = FailPoints(tmp_path)
            points.arm("worker.after_reserve", "raise")
            points.arm("worker.received", "raise")
            order = system.place((a_sku(), 1)).body["id"]
            system.end_of(order)

            def reported() -> list[dict[str, Any]]:
                return [event for event in events if event["logentry"]["message"] == "fulfilment failed"]

            wait_until(reported)

    assert reported()[0]["tags"] == {"order": order, "task": order}
    assert reported()[0]["exception"]["values"][-1]["type"] == "FailPointReached"


def test_a_shop_without_the_extra_says_so_once_and_goes_on() -> None:
    code = "import sys; sys.modules['sentry_sdk'] = None; import django; django.setup(); print('goes on')"
    env = os.environ | {"SENTRY_DSN": "http://key@127.0.0.1:1/1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "goes on"
    assert done.stderr.count("the extra `sentry` is not installed") == 1


def test_nothing_of_it_is_loaded_where_it_is_not_wished_for() -> None:
    code = "import django, sys; django.setup(); print('sentry_sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
