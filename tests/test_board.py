"""The live board: for staff alone, light however many look, true, and with switches that work."""

import asyncio
import http.cookiejar
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPResponse

import pytest
import redis
from django.contrib.auth.models import Permission, User

from shop import board as boards
from shop import figures, fulfilment, keys, pauses, reconciliation, replacements, stock
from shop.board import BAD, GOOD, WARN, Board
from shop.figures import INTAKE, ORDER_MS, Tally
from shop.pauses import Part
from shop.replacements import Replacement
from shop.stores import redis_client
from tests.builders import a_sku, accepted, an_order, wait_until
from tests.refusals import full
from tests.running import System, frozen
from workers.embedded import RedisServer

PASSWORD = "a long enough one"


@dataclass
class Person:
    """Somebody with a browser that keeps cookies."""

    system: System
    cookies: http.cookiejar.CookieJar = field(default_factory=http.cookiejar.CookieJar)

    def open(self, path: str, form: dict[str, str] | None = None, **headers: str) -> HTTPResponse:
        """The answer, after redirects; one of 400 and more is an answer, too."""
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))
        data = None if form is None else urllib.parse.urlencode(form | self._token()).encode()
        request = urllib.request.Request(
            self.system.url + path, data, {"Referer": self.system.url, **headers}
        )
        try:
            return opener.open(request, timeout=20)
        except urllib.error.HTTPError as answer:
            return answer

    def read(self, path: str) -> str:
        """The text of a page."""
        with self.open(path) as answer:
            assert answer.status == 200, path
            return str(answer.read().decode())

    def figures(self, query: str = "") -> dict[str, object]:
        """What a board would be told."""
        found: dict[str, object] = json.loads(self.read(f"/live/figures{query}"))
        return found

    def sign_in(self, name: str) -> "Person":
        """Through the admin's page."""
        with self.open("/admin/login/"):
            pass
        with self.open("/admin/login/?next=/live", {"username": name, "password": PASSWORD}) as answer:
            assert answer.url.endswith("/live"), answer.url
        return self

    def _token(self) -> dict[str, str]:
        found = {cookie.name: cookie.value or "" for cookie in self.cookies}
        return {"csrfmiddlewaretoken": found["csrftoken"]} if "csrftoken" in found else {}


def a_user(**rights: bool) -> User:
    return User.objects.create_user(f"user-{uuid.uuid4().hex[:8]}", password=PASSWORD, **rights)


@pytest.fixture
def operator(system: System) -> Person:
    """Somebody who may do everything."""
    return Person(system).sign_in(a_user(is_staff=True, is_superuser=True).username)


@pytest.fixture
def resumed(system: System) -> Iterator[System]:
    """The system, with no pause left when the test is over."""
    yield system
    for part in Part:
        pauses.resume(redis_client(), part, who="tests")


@pytest.fixture
def nothing_counted(client: "redis.Redis") -> "redis.Redis":
    """An empty Redis, and nothing left over from the tests before that this process would tell it.

    A second has just begun, so that what a test counts is told together.
    """
    wait_until(lambda: 2 * figures.LATE_S < time.time() % 1 < 0.3, what="the beginning of a second")
    figures.tally.tell()
    client.flushdb()
    return client


def light(shown: boards.Shown, name: str) -> tuple[str, str]:
    """Colour and text of a light."""
    return next((light.colour, light.says) for light in shown.snapshot.lights if light.name == name)


def looked(client: "redis.Redis") -> boards.Shown:
    """A first look at this Redis."""
    return Board(lambda: client).shown()


# --- what it says -----------------------------------------------------------------------------------


def test_an_idle_system_that_nobody_has_compared_yet_says_so(nothing_counted: "redis.Redis") -> None:
    shown = looked(nothing_counted)

    assert light(shown, "Oversold") == (WARN, "not looked at yet")
    assert light(shown, "Workers") == (BAD, "none")
    assert (shown.snapshot.text["in"], shown.snapshot.text["p99"]) == ("0", "–")  # noqa: RUF001
    assert len(shown.snapshot.rows) == boards.HISTORY_S


@pytest.mark.parametrize(
    ("minutes_ago", "shown"),
    [
        ((), (GOOD, "none lately")),
        ((16,), (GOOD, "none lately")),
        ((16, 3), (WARN, "web, 3 min ago: silent for 10 s")),
        ((14, 5, 3), (WARN, "web, 3 min ago: silent for 10 s; 2 more")),
    ],
)
def test_processes_that_were_replaced_are_told_for_a_quarter_of_an_hour(
    nothing_counted: "redis.Redis", minutes_ago: Sequence[int], shown: tuple[str, str]
) -> None:
    for minutes in minutes_ago:
        at_ms = int(time.time() - 60 * minutes) * 1000
        replacements.record(nothing_counted, Replacement(part="web", cause="silent", at_ms=at_ms))

    assert light(looked(nothing_counted), "Replaced processes") == shown


def test_where_somebody_has_broken_their_key_the_board_stays(nothing_counted: "redis.Redis") -> None:
    nothing_counted.set(keys.REPLACEMENTS, "no list")

    assert light(looked(nothing_counted), "Replaced processes") == (GOOD, "none lately")


def test_a_redis_without_room_for_new_orders_turns_its_light(nothing_counted: "redis.Redis") -> None:
    before = light(looked(nothing_counted), "Redis's memory")
    with full(nothing_counted):
        colour, says = light(looked(nothing_counted), "Redis's memory")

    assert (before[0], colour) == (GOOD, BAD)
    assert says.endswith("used: no new orders")


def is_told_and_over(shown: boards.Shown) -> bool:
    """Whether a board shows a second in which orders came, and a newer one in which none did."""
    return shown.snapshot.rows[-1][0] == 0 and any(row[0] for row in shown.snapshot.rows)


def test_orders_show_in_numbers_lights_and_the_newest_rows(nothing_counted: "redis.Redis") -> None:
    sku = a_sku(stock=10)
    orders = accepted(nothing_counted, an_order((sku, 8)), an_order((sku, 8)), an_order((sku, 1)))
    figures.tally.add(f"{INTAKE}accepted", 3)
    figures.tally.add(f"{INTAKE}rate_limited", 2)
    fulfilment.fulfil(orders[:2], client=nothing_counted)
    reconciliation.reconcile(nothing_counted)
    figures.tally.tell()
    wait_until(lambda: is_told_and_over(looked(nothing_counted)), timeout_s=10)
    shown = looked(nothing_counted)
    text = shown.snapshot.text

    assert (text["confirmed:_minute"], text["rejected:insufficient_stock_minute"]) == ("1", "1")
    assert (text["accepted_total"], text["refused_minute"], text["rate_limited_minute"]) == ("3", "2", "2")
    assert (text["open"], text["units_total"]) == ("1", "8")
    assert light(shown, "Oversold") == (GOOD, "0")
    assert light(shown, "Stock agrees")[0] == GOOD
    assert [row[0] for row in shown.snapshot.hottest] == [sku]
    assert shown.snapshot.hottest[0][1:4] == ["16", "8", "2"]
    busiest = max(shown.snapshot.rows, key=lambda row: row[0] or 0)
    assert busiest[:4] == [3, 2, 1, 2]
    assert shown.snapshot.rows[-1][2] == 1, "an order stays open while nothing happens"
    assert shown.snapshot.rows[0][2] == 0, "and was not, before it came"


def test_what_is_wrong_turns_its_light(nothing_counted: "redis.Redis") -> None:
    client, sku = nothing_counted, a_sku(stock=10)
    stock.refresh(client, [sku])
    client.incrby(keys.stock(sku), 5)
    reconciliation.reconcile(client)
    wrong = looked(client)
    verdict = reconciliation.last_verdict(client.get(keys.LAST_RECONCILE))
    assert verdict is not None
    client.set(
        keys.LAST_RECONCILE,
        json.dumps({"at_ms": verdict.at_ms - 600_000, "clean": True, "summary": "", "oversold": 2}),
    )
    old = looked(client)

    assert light(wrong, "Stock agrees")[0] == BAD
    assert light(old, "Oversold") == (BAD, "2 SKUs")
    assert light(old, "Stock agrees")[0] == WARN


def test_a_verdict_of_the_release_before_is_read(client: "redis.Redis") -> None:
    client.set(keys.LAST_RECONCILE, json.dumps({"at_ms": 1, "clean": True, "summary": "all agrees"}))

    assert light(looked(client), "Stock agrees")[0] == WARN


def test_looks_within_a_second_are_one_look_and_seconds_that_are_over_are_read_once(
    nothing_counted: "redis.Redis",
) -> None:
    board = Board(lambda: nothing_counted)
    board.shown()

    def reads() -> int:
        return int(nothing_counted.info("commandstats").get("cmdstat_hgetall", {}).get("calls", 0))

    before = reads()
    assert board.shown() is board.shown()
    assert reads() == before
    wait_until(lambda: board.fresh() is None, timeout_s=5)
    board.shown()
    assert reads() - before <= boards.OPEN_S + 3


def test_late_figures_of_a_second_are_shown(nothing_counted: "redis.Redis") -> None:
    board, tally = Board(lambda: nothing_counted), Tally()
    tally.add(f"{INTAKE}accepted", 7)
    tally.tell()
    wait_until(lambda: 7 in [row[0] for row in board.shown().snapshot.rows], timeout_s=10)
    second = board.shown().snapshot.second
    nothing_counted.hincrby(keys.figures_of_second(second), f"{INTAKE}accepted", 30)

    wait_until(lambda: max(row[0] or 0 for row in board.shown().snapshot.rows) >= 30, timeout_s=10)


def test_the_quantiles_of_a_row_are_those_of_its_last_seconds(nothing_counted: "redis.Redis") -> None:
    now = nothing_counted.time()[0]
    for ago, value_ms in ((12, 10), (6, 1_000)):
        nothing_counted.hset(keys.figures_of_second(now - ago), mapping=dict(ORDER_MS.counted([value_ms])))
    snapshot = looked(nothing_counted).snapshot
    p50 = {snapshot.second - len(snapshot.rows) + 1 + at: row[4] for at, row in enumerate(snapshot.rows)}

    assert p50[now - 12] is not None
    assert p50[now - 12] == p50[now - 8]
    assert p50[now - 7] is None
    assert (p50[now - 6] or 0) > 500


# --- who may look, and switch -----------------------------------------------------------------------


def test_a_stranger_is_sent_to_the_sign_in_and_told_no_figure(system: System) -> None:
    stranger = Person(system)
    with stranger.open("/live") as page:
        assert "/admin/login/?next=/live" in page.url
    with stranger.open("/live/figures") as answer:
        assert (answer.status, json.loads(answer.read())["type"]) == (403, "forbidden")
    with stranger.open("/live/figures", Cookie="sessionid=guessed") as answer:
        assert answer.status == 403


def test_who_is_not_of_the_staff_sees_nothing(system: System) -> None:
    name = a_user(is_staff=True).username
    person = Person(system).sign_in(name)
    User.objects.filter(username=name).update(is_staff=False)

    wait_until(lambda: person.open("/live/figures").status == 403, timeout_s=10)
    with person.open("/live") as page:
        assert "/admin/login/" in page.url


def test_staff_without_the_right_to_switch_looks_and_cannot_switch(resumed: System) -> None:
    user = a_user(is_staff=True)
    person = Person(resumed).sign_in(user.username)

    assert "may look, and not switch" in person.read("/live")
    form = {"part": "intake", "action": "pause", "reason": "no right"}
    with person.open("/live/switch", form) as refused:
        assert refused.status == 403
    assert pauses.current(redis_client()) == {}

    user.user_permissions.add(Permission.objects.get(codename="add_pausechange"))
    with person.open("/live/switch", form) as answer:
        assert answer.url.endswith("/live")
    assert pauses.current(redis_client())[Part.INTAKE].who == user.username


def test_the_switches_pause_and_resume_and_tell_who_did(resumed: System, operator: Person) -> None:
    reason = f"stocktaking <{uuid.uuid4().hex[:6]}>"
    operator.read("/live")
    with operator.open("/live/switch", {"part": "fulfilment", "action": "pause", "reason": reason}) as page:
        paused = page.read().decode()
    resumed_page = operator.open("/live/switch", {"part": "fulfilment", "action": "resume"}).read().decode()

    assert "Fulfilment is paused." in paused
    assert reason.replace("<", "&lt;").replace(">", "&gt;") in paused
    assert "Fulfilment goes on." in resumed_page
    assert pauses.current(redis_client()) == {}
    assert re.search(r"fulfilment <strong>resumed</strong> by user-", resumed_page)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"part": "intake", "action": "pause", "reason": " "}, "Say why"),
        ({"part": "intake", "action": "resume"}, "was not paused"),
    ],
)
def test_a_switch_that_changes_nothing_says_why(
    resumed: System, operator: Person, form: dict[str, str], says: str
) -> None:
    operator.read("/live")
    with operator.open("/live/switch", form) as page:
        assert says in page.read().decode()
    assert pauses.current(redis_client()) == {}


def test_a_switch_wants_its_token_a_known_part_and_a_post(resumed: System, operator: Person) -> None:
    operator.read("/live")
    form = {"part": "intake", "action": "pause", "reason": "x"}
    assert operator.open("/live/switch").status == 405
    assert operator.open("/live/switch", form | {"part": "everything"}).status == 400
    for cookie in list(operator.cookies):
        if cookie.name == "csrftoken":
            operator.cookies.clear(cookie.domain, cookie.path, cookie.name)
    assert operator.open("/live/switch", form).status == 403
    assert pauses.current(redis_client()) == {}


# --- over HTTP --------------------------------------------------------------------------------------


def test_the_page_says_without_script_what_the_figures_say(system: System, operator: Person) -> None:
    system.end_of(system.place((a_sku(), 1)).body["id"])
    wait_until(lambda: "1" in str(operator.figures()["text"]), timeout_s=10)
    page = operator.read("/live")

    assert '<noscript><meta http-equiv="refresh"' in page
    places = dict(re.findall(r'data-place="([^"]+)">([^<]*)<', page))
    told = operator.figures()["text"]
    assert isinstance(told, dict)
    assert set(places) <= set(told)
    assert {"in", "out", "open", "oldest", "p50", "p95", "p99", "refused_minute", "batch"} <= set(places)
    assert all(text for text in places.values())


def test_a_board_that_has_the_past_gets_its_end_alone(operator: Person) -> None:
    whole, recent = operator.figures(), operator.figures("?recent")

    assert isinstance(whole["rows"], list)
    assert isinstance(recent["rows"], list)
    assert (len(whole["rows"]), len(recent["rows"])) == (boards.HISTORY_S, boards.RECENT_S)


def test_what_has_not_changed_is_not_sent_again(operator: Person) -> None:
    def asked_again() -> int:
        with operator.open("/live/figures") as first:
            tag = first.headers["ETag"]
            assert first.headers["Cache-Control"] == "private, no-cache"
        with operator.open("/live/figures", **{"If-None-Match": tag}) as again:
            return again.status

    wait_until(lambda: asked_again() == 304, timeout_s=10)


def test_without_redis_the_board_says_so(system: System, operator: Person, redis_server: RedisServer) -> None:
    operator.figures()
    with frozen(redis_server.pid):
        wait_until(lambda: operator.open("/live/figures").status == 503, timeout_s=20)

    wait_until(lambda: operator.open("/live/figures").status == 200, timeout_s=20)


def test_a_hundred_boards_cost_one_look_a_second(system: System, operator: Person) -> None:
    session = next(cookie.value for cookie in operator.cookies if cookie.name == "sessionid")
    operator.figures()

    def reads() -> int:
        return int(redis_client().info("commandstats")["cmdstat_zrevrange"]["calls"])

    async def ask_for(seconds: float) -> int:
        clock = asyncio.get_running_loop().time
        until, answers = clock() + seconds, 0
        head = f"GET /live/figures?recent HTTP/1.1\r\nHost: localhost\r\nCookie: sessionid={session}\r\n\r\n"

        async def viewer() -> None:
            nonlocal answers
            reader, writer = await asyncio.open_connection("127.0.0.1", system.port)
            while clock() < until:
                writer.write(head.encode())
                told = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"content-length: (\d+)", told)
                assert told.startswith("HTTP/1.1 200")
                assert length is not None
                await reader.readexactly(int(length.group(1)))
                answers += 1
                await asyncio.sleep(0.1)
            writer.close()

        await asyncio.gather(*(viewer() for _ in range(100)))
        return answers

    before, began = reads(), time.monotonic()
    answers = asyncio.run(ask_for(3))
    took_s = time.monotonic() - began
    looks = (reads() - before) / (len(figures.RANKINGS) * boards.HOT_MINUTES)

    assert answers > 200
    assert looks <= took_s + 2
