"""The proxy of Compose, `workers/haproxy.cfg`, before a running web process: who may see what, and how much of it."""

import http.client
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.builders import a_sku, wait_until
from tests.pages import ROOT
from tests.programs import HAPROXY, Running
from tests.proxies import ANY_OTHER, HOST, OURS, WAYS_ROUND, Behind, opened
from tests.running import System
from workers.ports import LOOPBACK, free_port
from workers.processes import Part

CONFIGURATION = (ROOT / "workers" / "haproxy.cfg").read_text()
#: Our own proxies, which take TLS off: those that `opened` speaks for are among them.
OURS_BEFORE = f"{OURS} 127.0.0.8/29 127.0.0.16/30"
HTTPS = {"X-Forwarded-Proto": "https"}


class HAProxy(Running):
    """HAProxy with our configuration, before one web process, at two ports: for everyone, and for operators.

    `without`: a line that it is not given, to see what that line is for.
    """

    def __init__(self, folder: Path, web_port: int, without: str = "", trusted: str = OURS_BEFORE) -> None:
        super().__init__()
        self.port, self.inside = free_port(), free_port()
        real = {
            "bind :8000": f"bind {LOOPBACK}:{self.port}",
            "bind :8001": f"bind {LOOPBACK}:{self.inside}",
            "server-template web 1-20 web:8000": f"server web {LOOPBACK}:{web_port}",
        }
        assert without in CONFIGURATION
        text = CONFIGURATION.replace(without, "") if without else CONFIGURATION
        for shown, ours in real.items():
            assert shown in text
            text = text.replace(shown, ours)
        (folder / "haproxy.cfg").write_text(text)
        self.part = Part(
            name="haproxy",
            argv=[HAPROXY.installed, "-db", "-f", str(folder / "haproxy.cfg")],
            log=folder / "haproxy.log",
            env={"TRUSTED_PROXIES": trusted},
            is_ready=self._is_ready,
        )

    def _is_ready(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def connect(self, address: str = OURS, port: int = 0) -> http.client.HTTPConnection:
        """A connection as from another address."""
        connection = http.client.HTTPConnection(HOST, timeout=40)
        connection.sock = socket.create_connection(
            (LOOPBACK, port or self.port), timeout=40, source_address=(address, 0)
        )
        return connection


class Inside:
    """The port for operators."""

    def __init__(self, proxy: HAProxy) -> None:
        self._proxy = proxy

    def connect(self, address: str = OURS) -> http.client.HTTPConnection:
        """A connection to it."""
        return self._proxy.connect(address, self._proxy.inside)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The web tier alone, told what it is told in production."""
    env = {"HTTPS": "true", "ALLOWED_HOSTS": HOST}
    with System(tmp_path_factory.mktemp("system"), env) as running:
        yield running.start("web")


@pytest.fixture(scope="module")
def shop(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    proxy = HAProxy(tmp_path_factory.mktemp("haproxy"), system.port)
    try:
        yield Behind(proxy.start(), system.api_key)
    finally:
        proxy.stop()


@pytest.fixture
def careless(system: System, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Behind]:
    """The same without the line that the test names."""
    proxy = HAProxy(tmp_path, system.port, without=request.param)
    try:
        yield Behind(proxy.start(), system.api_key)
    finally:
        proxy.stop()


def line(beginning: str) -> str:
    """The line of the configuration that begins like this."""
    (found,) = re.findall(rf"^ *{re.escape(beginning)}.*$", CONFIGURATION, re.MULTILINE)
    return str(found)


def test_an_order_passes_over_the_proxy_that_takes_tls_off(shop: Behind) -> None:
    placed = shop.place(a_sku(stock=10), 8, X_Request_ID="asked-by-me", **HTTPS)

    assert (placed.status, placed.headers["X-Request-ID"]) == (202, "asked-by-me")


def test_that_it_came_over_tls_is_believed_of_our_own_proxy_alone(shop: Behind) -> None:
    clear, lie = shop.place(a_sku(), address=ANY_OTHER), shop.place(a_sku(), address=ANY_OTHER, **HTTPS)

    assert [(answer.status, answer.body["type"]) for answer in (clear, lie)] == [(403, "https-required")] * 2


@pytest.mark.parametrize("careless", [line("http-request del-header")], indirect=True)
def test_without_its_line_a_client_would_be_believed(careless: Behind) -> None:
    assert careless.place(a_sku(), address=ANY_OTHER, **HTTPS).status == 202


def test_what_is_for_operators_is_closed_to_all_others(shop: Behind) -> None:
    answer = shop.send("GET", "/admin/", headers=HTTPS)

    assert (answer.status, answer.headers["Content-Type"]) == (403, "application/problem+json")
    assert answer.body["type"] == "forbidden"
    assert answer.headers["X-Request-ID"]
    assert opened(shop, WAYS_ROUND, X_Forwarded_Proto="https") == {}


def test_operators_find_everything_at_their_own_port(shop: Behind) -> None:
    inside = Behind(Inside(shop.proxy), shop.api_key)

    found = {path: inside.status(path) for path in ("/metrics", "/healthz", "/admin/login/", "/", "/live")}

    assert found == {"/metrics": 200, "/healthz": 200, "/admin/login/": 200, "/": 200, "/live": 302}
    assert inside.place(a_sku()).status == 202


@pytest.mark.parametrize("careless", [line("http-request deny deny_status 403")], indirect=True)
def test_without_its_line_everyone_would_see_what_is_for_operators(careless: Behind) -> None:
    found = opened(careless, WAYS_ROUND, X_Forwarded_Proto="https")

    assert {
        "/metrics",
        "/m%65trics",
        "/admin/",
        "/a%64min/",
        "/live",
        "/l%69ve",
        "/readyz",
        "/healthz",
    } <= found.keys()


@pytest.mark.parametrize("careless", [line("http-request deny deny_status 400")], indirect=True)
def test_without_its_line_what_cannot_be_decoded_would_hide_an_address(careless: Behind) -> None:
    assert opened(careless, WAYS_ROUND, X_Forwarded_Proto="https") != {}


def asks_often(shop: Behind, address: str, times: int = 600, **headers: str) -> Counter[int]:
    """The statuses of requests on one connection."""
    connection, statuses = shop.proxy.connect(address), Counter[int]()
    for _ in range(times):
        connection.request("GET", "/api/openapi.json", headers={"If-None-Match": "x", **headers})
        answer = connection.getresponse()
        answer.read()
        statuses[answer.status] += 1
    connection.close()
    return statuses


def test_an_address_that_sends_too_much_is_refused_and_others_are_not(shop: Behind) -> None:
    other = "127.0.0.4"
    many = asks_often(shop, other)
    refused, ours = shop.send("GET", "/", address=other), asks_often(shop, ANY_OTHER, 10)

    assert (many[403], many[429]) == (500, 100)  # 403: in clear
    assert (refused.status, refused.headers["Retry-After"], refused.body["type"]) == (
        429,
        "1",
        "rate-limited",
    )
    assert ours == {403: 10}


def test_behind_our_own_proxy_each_client_has_its_own_limit(shop: Behind) -> None:
    one, other = ({**HTTPS, "X-Forwarded-For": f"198.51.100.7, 203.0.113.{last}"} for last in (1, 2))

    many, few = asks_often(shop, OURS, **one), asks_often(shop, OURS, 10, **other)

    assert (many[200], many[429]) == (500, 100)
    assert few == {200: 10}


def test_a_client_cannot_choose_the_address_that_it_is_counted_by(shop: Behind) -> None:
    with ThreadPoolExecutor(4) as clients:
        told = [{"X-Forwarded-For": f"203.0.113.{last}"} for last in range(4)]
        counted = list(clients.map(lambda named: asks_often(shop, "127.0.0.5", 150, **named), told))

    assert 90 <= sum(counted, Counter())[429] <= 100  # several were under way when the last place was taken


@pytest.mark.parametrize("careless", [line("http-request track-sc1")], indirect=True)
def test_without_its_line_nobody_would_be_refused(careless: Behind) -> None:
    assert asks_often(careless, ANY_OTHER) == {403: 600}


def test_an_address_has_a_hundred_connections(shop: Behind) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.callback(shop.proxy.connect("127.0.0.6").close)
        wait_until(lambda: shop.status("/", "127.0.0.6") == 429, what="a refusal")
        other = shop.status("/", ANY_OTHER)

    assert other == 301
    wait_until(lambda: shop.status("/", "127.0.0.6") == 301, what="the end of those connections")


def test_without_a_web_process_clients_are_told_to_come_again(tmp_path: Path) -> None:
    proxy = HAProxy(tmp_path, web_port=free_port())
    try:
        answer = Behind(proxy.start(), "").place(a_sku(), **HTTPS)
    finally:
        proxy.stop()

    assert (answer.status, answer.headers["Retry-After"], answer.body["type"]) == (503, "2", "unavailable")


def judged(trusted: str) -> "subprocess.CompletedProcess[str]":
    """What HAProxy says of the configuration."""
    return subprocess.run(
        [HAPROXY.installed, "-c", "-f", "workers/haproxy.cfg"],
        env={"TRUSTED_PROXIES": trusted},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("trusted", ["", "10.0.0.5", "10.0.0.5 172.16.0.0/12 fd00::/8"])
def test_every_list_of_proxies_gives_a_configuration(trusted: str) -> None:
    done = judged(trusted)

    assert (done.returncode, "WARNING" in done.stderr) == (0, False)


def test_a_list_that_names_no_address_gives_none() -> None:
    assert judged("anyone").returncode != 0
