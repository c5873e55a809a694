"""The nginx configuration of docs/go-live.md, word for word, before a running system: TLS, limits, and who may see what."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
import trustme

from shop import keys, pauses
from shop.settings import MAX_BODY_BYTES
from tests.builders import a_sku, assert_at_rest, wait_until
from tests.pages import ROOT, Page
from tests.programs import NGINX, Running
from tests.proxies import ANY_OTHER, HOST, OURS, WAYS_ROUND, Behind, opened
from tests.running import Answer, System
from workers.ports import LOOPBACK, free_port
from workers.processes import Part

PAGE = Page(path=ROOT / "docs" / "go-live.md", text=(ROOT / "docs" / "go-live.md").read_text())


class Nginx(Running):
    """An nginx with the files of the page, before one web process that runs and one that does not.

    `without`: a line of the page that it is not given, to see what that line is for.
    """

    def __init__(self, folder: Path, web_port: int, without: str = "") -> None:
        super().__init__()
        authority = trustme.CA()
        certificate = authority.issue_cert(HOST)
        certificate.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        self._trusting = ssl.create_default_context()
        authority.configure_trust(self._trusting)
        self.port = free_port()
        real = {
            "10.0.0.11:8000": f"{LOOPBACK}:{free_port()}",
            "10.0.0.12:8000": f"{LOOPBACK}:{web_port}",
            "10.0.0.0/8": OURS,
            "listen 443 ssl": f"listen {LOOPBACK}:{self.port} ssl",
            f"/etc/ssl/{HOST}.pem": str(folder / "certificate.pem"),
            f"/etc/ssl/private/{HOST}.key": str(folder / "key.pem"),
        }
        for name, shown in self._files().items():
            text = re.sub("|".join(map(re.escape, real)), lambda found: real[found[0]], shown)
            (folder / name).write_text(text.replace(without, ""))
        (folder / "nginx.conf").write_text(_around(folder))
        self.part = Part(
            name="nginx",
            argv=[NGINX.installed, "-c", str(folder / "nginx.conf"), "-e", "stderr"],
            log=folder / "nginx.log",
            is_ready=self._is_ready,
            stop_signal=signal.SIGQUIT,
        )

    @staticmethod
    def _files() -> dict[str, str]:
        """What the page shows, by the name in the first line."""
        return {block.splitlines()[0].removeprefix("# "): block for block in PAGE.blocks("nginx")}

    def _is_ready(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def read_its_files_again(self) -> None:
        """As `nginx -s reload` does; wait until the processes are new ones."""
        assert self._child
        before = set(self._child.pids[1:])
        os.kill(self._child.pid, signal.SIGHUP)
        child = self._child
        wait_until(lambda: set(child.pids[1:]) - before, what="new processes of nginx")

    def connect(self, address: str = OURS) -> http.client.HTTPSConnection:
        """A connection as from another address."""
        connection = http.client.HTTPSConnection(HOST, timeout=40, context=self._trusting)
        plain = socket.create_connection((LOOPBACK, self.port), timeout=40, source_address=(address, 0))
        connection.sock = self._trusting.wrap_socket(plain, server_hostname=HOST)
        return connection


def _around(folder: Path) -> str:
    """What Debian's own nginx.conf is around a site, with everything it writes in one folder."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    user = "user root;" if os.geteuid() == 0 else ""
    scratch = "\n".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    return f"""{user}
daemon off;
worker_processes 2;
pid {folder / "pid"};
events {{ worker_connections 1024; }}
http {{ access_log off; {scratch} include reserva.conf; }}
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Web, worker and scheduler, told what they are told in production."""
    from shop.stores import redis_client

    redis_client().flushdb()
    env = {"HTTPS": "true", "ALLOWED_HOSTS": HOST}
    with System(tmp_path_factory.mktemp("system"), env) as running:
        yield running.start()


@pytest.fixture(scope="module")
def shop(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), system.port)
    try:
        yield Behind(nginx.start(), system.api_key)
    finally:
        nginx.stop()


def test_an_order_and_its_end_pass_through_with_their_headers(shop: Behind) -> None:
    sku, key = a_sku(stock=10), uuid.uuid4().hex

    placed = shop.place(sku, 8, key, X_Request_ID="asked-by-me")
    again = shop.place(sku, 8, key)
    ended = shop.poll(placed.body["id"])

    assert (placed.status, placed.headers["X-Request-ID"]) == (202, "asked-by-me")
    assert placed.headers["Location"] == placed.body["href"]
    assert (again.status, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert (ended.status, ended.body["status"]) == (200, "confirmed")
    assert shop.place(sku, 8).body["id"] != placed.body["id"]


def test_no_order_is_refused_because_one_web_process_is_not_there(shop: Behind) -> None:
    sku = a_sku(stock=100)

    assert Counter(shop.place(sku).status for _ in range(12)) == {202: 12}


def test_a_long_poll_outlives_a_new_configuration(shop: Behind) -> None:
    from shop.stores import redis_client

    pauses.pause(redis_client(), pauses.Part.FULFILMENT, who="tests", reason="orders are to wait")
    try:
        order_id = shop.place(a_sku()).body["id"]
        with ThreadPoolExecutor() as people:
            asked = people.submit(shop.poll, order_id, 20)
            assert shop.poll(order_id, 1).headers["Preference-Applied"] == "wait=1"
            shop.proxy.read_its_files_again()
            is_held = not asked.done()
            pauses.resume(redis_client(), pauses.Part.FULFILMENT, who="tests")
            answer = asked.result()
    finally:
        pauses.resume(redis_client(), pauses.Part.FULFILMENT, who="tests")

    assert is_held
    assert (answer.status, answer.body["status"]) == (200, "confirmed")


def test_a_body_of_a_mebibyte_passes_and_a_larger_one_is_refused_in_our_words(shop: Behind) -> None:
    def padded(size: int) -> bytes:
        order = json.dumps({"items": [{"sku": a_sku(), "quantity": 1}]}).encode()
        return order + b" " * (size - len(order))

    key = {"Idempotency-Key": uuid.uuid4().hex}
    largest = shop.send("POST", "/api/v1/orders", padded(MAX_BODY_BYTES), key)
    larger = shop.send("POST", "/api/v1/orders", padded(MAX_BODY_BYTES + 1), key)

    assert largest.status == 202
    assert (larger.status, larger.headers["Content-Type"]) == (413, "application/problem+json")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/metrics",
            "/healthz",
            "/readyz",
            "/live",
            "/live/figures",
            "/live/switch",
            "/admin/",
            "/admin/login/",
        ),
        *("//metrics", "/%6detrics", "/./metrics", "/api/../metrics", "/metrics?x=1", "/metrics/"),
    ],
)
def test_what_is_for_staff_is_not_seen_from_the_outside(path: str, shop: Behind) -> None:
    assert shop.send("GET", path, address=ANY_OTHER).status == 403


def test_no_way_round_leads_to_what_is_for_staff(shop: Behind) -> None:
    assert opened(shop, WAYS_ROUND) == {}


def test_what_is_for_staff_is_seen_from_the_inside(shop: Behind) -> None:
    found = {path: shop.send("GET", path).status for path in ("/metrics", "/readyz", "/admin/login/")}

    assert set(found.values()) == {200}


def test_a_page_comes_over_tls_whatever_the_client_says_of_it(shop: Behind) -> None:
    told = {"X-Forwarded-Proto": "http"}

    page = shop.send("GET", "/", headers=told, address=ANY_OTHER)

    assert page.status == 200
    assert "Strict-Transport-Security" in page.headers


@pytest.mark.parametrize(
    ("line", "path", "status"),
    [("deny all;", "/metrics", 200), ("proxy_set_header X-Forwarded-Proto https;", "/", 301)],
)
def test_without_a_line_of_the_page_its_reader_would_see_something_else(
    line: str, path: str, status: int, system: System, tmp_path: Path
) -> None:
    assert any(line in block for block in PAGE.blocks("nginx"))
    careless = Nginx(tmp_path, system.port, without=line)
    try:
        answer = Behind(careless.start(), system.api_key).send(
            "GET", path, headers={"X-Forwarded-Proto": "http"}, address=ANY_OTHER
        )
    finally:
        careless.stop()

    assert answer.status == status


def test_who_sends_too_much_from_one_address_is_refused_and_others_are_not(shop: Behind) -> None:
    def asks(address: str, times: int) -> list[Answer]:
        """So often, or until it is refused."""
        connection = shop.proxy.connect(address)
        answers: list[Answer] = []
        while len(answers) < times and (not answers or answers[-1].status != 429):
            connection.request("GET", "/api/openapi.json", headers={"If-None-Match": "x"})
            response = connection.getresponse()
            answers.append(Answer(status=response.status, headers=response.headers, body=response.read()))
        connection.close()
        return answers

    many = asks(
        ANY_OTHER, 5_000
    )  # of which a slow machine may need some: 50 a second are allowed, and 200 at once
    ours = asks(OURS, len(many))

    refused = [answer for answer in many if answer.status == 429]
    assert refused
    assert refused[0].headers["Content-Type"] == "application/problem+json"
    assert refused[0].headers["Retry-After"] == "1"
    assert json.loads(refused[0].body)["type"] == "rate-limited"
    assert {answer.status for answer in ours} == {200}


def test_without_any_web_process_clients_are_told_to_come_again_and_can_at_once(
    shop: Behind, system: System
) -> None:
    sku, key = a_sku(), uuid.uuid4().hex
    system.stop("web")
    try:
        answer = shop.place(sku, key=key)
    finally:
        system.start("web")

    assert (answer.status, answer.headers["Content-Type"]) == (503, "application/problem+json")
    assert answer.body["type"] == "unavailable"
    wait_until(lambda: shop.place(sku, key=key).status == 202, timeout_s=3, what="an order")


def test_an_order_is_one_order_when_nginx_is_started_anew_while_orders_come(
    shop: Behind, system: System, client: "redis.Redis"
) -> None:
    ids: list[str] = []
    is_over = threading.Event()
    sku = a_sku(stock=10_000)

    def buy() -> None:
        while not is_over.is_set():
            key, answer = uuid.uuid4().hex, None
            while answer is None or answer.status != 202:
                try:
                    answer = shop.place(sku, key=key)
                except (OSError, http.client.HTTPException):
                    answer = None
            ids.append(answer.body["id"])

    buyers = [threading.Thread(target=buy) for _ in range(4)]
    for buyer in buyers:
        buyer.start()
    try:
        wait_until(lambda: len(ids) > 20, what="orders before")
        shop.proxy.stop()
        shop.proxy.start()
        before = len(ids)
        wait_until(lambda: len(ids) > before + 20, what="orders afterwards")
    finally:
        is_over.set()
        for buyer in buyers:
            buyer.join()

    assert {shop.poll(order_id).body["status"] for order_id in ids} == {"confirmed"}
    assert len(set(ids)) == len(ids)
    wait_until(lambda: client.get(keys.stock(sku)) == str(10_000 - len(ids)), what="one unit for each order")
    assert_at_rest(client)
