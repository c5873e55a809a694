"""Crowds of visitors and floods of sign-ins: orders and operators get through, others are asked to come again."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from django.test import RequestFactory, override_settings

from shop import admin_site
from shop.admin_site import SignInForm
from shop.stores import redis_client
from shop.web import sign_in as sign_in_failures
from shop.web.orders import PATIENCE_S
from shop.web.sign_in import Failures
from tests.builders import a_sku, wait_until
from tests.floods import ELSEWHERE, ask, flood, get, session_of, sign_in
from tests.raw_http import Reply, connected, order_head, read_reply
from tests.running import System, frozen
from tests.staff import PASSWORD, a_user

#: Within this an order that is placed meanwhile has its 202: two seconds, and as much for a slow machine.
ORDER_WITHIN_S = 4.0
#: Within this an operator has its page: six seconds in the queue, and time for a slow machine.
OPERATOR_WITHIN_S = 15.0
#: Threads of a web process: its places, the pool for small things, and those of its libraries.
MOST_THREADS = 30
WRONG = "not the right one"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A web process; nobody works."""
    redis_client().flushdb()
    with System(tmp_path_factory.mktemp("web")) as running:
        yield running.start("web")


@pytest.fixture(scope="module")
def name() -> str:
    """Somebody of the staff."""
    return a_user()


@pytest.fixture(scope="module")
def operator(web: System, name: str) -> str:
    """A browser in which this one is signed in: the header that it sends."""
    session = session_of(ask(web, sign_in(web, name, PASSWORD)))
    assert ask(web, get("/admin/", session)).status == 200
    return session


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A web process without places for pages, which does not know when a request has arrived."""
    folder = tmp_path_factory.mktemp("unguarded")
    with System(folder, env={"UNGUARDED": "crowds"}, web_module="tests.unguarded_web") as running:
        yield running.start("web")


def order_s(web: System) -> float:
    """After how many seconds an order that is placed now has its 202."""
    began = time.monotonic()
    assert web.place((a_sku(), 1)).status == 202
    return time.monotonic() - began


def is_crowded(reply: Reply) -> bool:
    """Whether it is the page that asks a browser to come again."""
    return reply.status == 503 and b"Many people are here at once" in reply.body


def assert_come_again(replies: Sequence[Reply]) -> None:
    """All of these say when to come again."""
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies)
    assert all(reply.headers["x-request-id"] for reply in replies)


def test_of_six_hundred_visitors_at_once_some_see_the_shop_and_orders_and_operators_do_not_wait(
    web: System, operator: str
) -> None:
    ask(web, get("/"))
    with flood(web, [get("/")] * 600) as crowd:
        took_s = order_s(web)
        board = ask(web, get("/admin/", operator))
        replies = crowd.read()

    refused = [reply for reply in replies if is_crowded(reply)]
    assert took_s < ORDER_WITHIN_S
    assert (board.status, board.seconds < OPERATOR_WITHIN_S) == (200, True)
    assert Counter(reply.status for reply in replies) == {200: 600 - len(refused), 503: len(refused)}
    assert 600 - len(refused) >= 4
    assert all("refresh" in reply.headers for reply in refused)
    assert_come_again(refused)
    assert crowd.most_threads <= MOST_THREADS


def test_two_hundred_wrong_sign_ins_at_once_hold_up_no_order_and_no_operator_elsewhere(
    web: System, name: str
) -> None:
    wrong, right = sign_in(web, name, WRONG), sign_in(web, name, PASSWORD, ELSEWHERE)

    with flood(web, [wrong] * 200) as attack:
        took_s = order_s(web)
        let_in = ask(web, right, ELSEWHERE)
        replies = attack.read()

    refused = [reply for reply in replies if reply.status in {429, 503}]
    assert took_s < ORDER_WITHIN_S
    assert (let_in.status, let_in.headers["location"]) == (302, "/admin/")
    assert let_in.seconds < OPERATOR_WITHIN_S
    assert len(refused) >= 200 - 17
    assert_come_again(refused)
    assert attack.most_threads <= MOST_THREADS


def test_a_crowd_at_the_door_leaves_staff_their_places(web: System, operator: str) -> None:
    with flood(web, [get("/admin/login/")] * 100) as crowd:
        known = ask(web, get("/admin/", operator))
        elsewhere = ask(web, get("/admin/login/"), ELSEWHERE)
        replies = crowd.read()

    assert (known.status, elsewhere.status) == (200, 200)
    assert any(is_crowded(reply) for reply in replies)
    assert crowd.most_threads <= MOST_THREADS


def test_without_places_a_crowd_has_as_many_threads_as_it_wants(unguarded: System) -> None:
    with flood(unguarded, [get("/admin/login/")] * 100) as crowd:
        crowd.read(enough_threads=MOST_THREADS + 1)

    assert crowd.most_threads > MOST_THREADS
    assert not any(is_crowded(reply) for reply in crowd.replies)


# --- wrong passwords ------------------------------------------------------------------------------


def test_after_wrong_passwords_a_name_waits_at_one_address_and_at_no_other(web: System, name: str) -> None:
    wrong = sign_in(web, name, WRONG)
    wait_until(lambda: ask(web, wrong).status == 429, what="an end of guessing")

    throttled = ask(web, sign_in(web, name, PASSWORD))
    elsewhere = ask(web, sign_in(web, name, PASSWORD, ELSEWHERE), ELSEWHERE)

    assert throttled.status == 429
    assert int(throttled.headers["retry-after"]) >= 1
    assert b"Too many wrong passwords for this name from your address" in throttled.body
    assert elsewhere.status == 302


@pytest.fixture
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Passwords that take no time, and none that was wrong before."""
    monkeypatch.setattr(admin_site, "failures", Failures())
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


def wrong_then_right(name: str) -> SignInForm:
    """The form with the right password after five wrong ones, all from one address."""
    request = RequestFactory().post("/admin/login/")
    for _ in range(5):
        assert not SignInForm(request, {"username": name, "password": WRONG}).is_valid()
    return SignInForm(request, {"username": name, "password": PASSWORD})


def test_the_sixth_password_is_not_looked_at(cheap_passwords: None) -> None:
    form = wrong_then_right(a_user())

    assert not form.is_valid()
    assert 1 <= form.wait_s <= 15


def test_without_the_count_of_wrong_passwords_guessing_goes_on(
    cheap_passwords: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failures, "add", lambda _failures, _name, _address, _now: None)

    assert wrong_then_right(a_user()).is_valid()


def test_each_further_wrong_password_doubles_the_wait_up_to_five_minutes_and_all_is_forgotten_in_the_end() -> (
    None
):
    failures, waits = Failures(), []
    for at in range(12):
        failures.add("name", "here", float(at))
        waits.append(failures.wait_s("name", "here", float(at)))

    assert waits == [0, 0, 0, 0, 15, 30, 60, 120, 240, 300, 300, 300]
    assert failures.wait_s("name", "here", 11.0 + 299) == 1
    assert failures.wait_s("name", "elsewhere", 11.0) == failures.wait_s("other", "here", 11.0) == 0
    failures.add("name", "here", 11.0 + 900)
    assert failures.wait_s("name", "here", 11.0 + 900) == 0


def test_names_and_addresses_that_somebody_makes_up_do_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sign_in_failures, "LIMIT", 100)
    failures = Failures()

    for at in range(1_000):
        failures.add(f"name {at}", f"address {at}", float(at))

    assert (len(failures._by_name), len(failures._by_address)) == (100, 100)
    assert failures.is_suspect("address 999", 1_000.0)
    assert not failures.is_suspect("address 1", 1_000.0)


# --- patience -------------------------------------------------------------------------------------


def order_to_a_web_that_stands_still(web: System) -> Reply:
    """The answer to an order that came while the web process stood still for longer than an order may take."""
    body = f'{{"items": [{{"sku": "{a_sku()}", "quantity": 1}}]}}'.encode()
    raw = order_head(web, f"Content-Length: {len(body)}") + body
    with connected(web) as connection:
        with frozen(*web.pids("web")):
            connection.sendall(raw)
            sent_at = time.monotonic()
            wait_until(
                lambda: time.monotonic() > sent_at + PATIENCE_S + 0.1, what="the end of an order's time"
            )
        return read_reply(connection, sent_at)


def test_the_time_of_an_order_begins_when_it_arrives(web: System) -> None:
    redis_client().flushdb()

    late = order_to_a_web_that_stands_still(web)

    assert (late.status, late.problem) == (503, "unavailable")
    assert_come_again([late])
    assert redis_client().keys("idempotency:*") == []
    assert order_s(web) < ORDER_WITHIN_S


def test_without_the_time_of_its_arrival_an_order_is_taken_late(unguarded: System) -> None:
    assert order_to_a_web_that_stands_still(unguarded).status == 202
