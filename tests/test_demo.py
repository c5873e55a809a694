"""The flash sale of `make demo`: who comes and what they want, what is shown meanwhile, what is left afterwards."""

import asyncio
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from shop import crowd, keys
from shop.client import AsyncClient
from shop.crowd import Bought, Wish
from shop.domain import Line, Status
from shop.flash_sale import Habit, Sale, flash_sale
from shop.management.commands.demo import judged_at_rest
from shop.running import Running
from shop.rush import Journal
from shop.sale_display import BLOCKS, Display, sparkline
from shop.stores import redis_client
from tests.builders import a_sku, assert_at_rest, wait_until
from tests.running import System

ROOT = Path(__file__).parent.parent


def a_sale(buyers: int = 2000, **more: Any) -> Sale:
    """A plan that is the same each time."""
    return flash_sale("run", chance=Random(1), buyers=buyers, **more)


@pytest.fixture
def data_dir(system: System, tmp_path: Path) -> Iterator[Path]:
    """A folder with what a running system says of itself."""
    status = {
        "web_url": system.url,
        "api_key": system.api_key,
        "staff_user": "operator",
        "staff_password": "a password",
        "redis_url": settings.REDIS_URL,
        "broker_url": settings.REDIS_URL,
        "database_url": settings.DATABASE_URL,
    }
    (tmp_path / "up.json").write_text(json.dumps(status))
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} <= {"up.json", "demo"}


@pytest.fixture
def shop(system: System) -> Running:
    """The running system, as the command finds it."""
    return Running(url=system.url, api_key=system.api_key, staff_user="", staff_password="")


def demo(data_dir: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """What the command says on standard output."""
    monkeypatch.setattr(settings, "DATA_DIR", data_dir)
    told = io.StringIO()
    try:
        call_command("demo", *options, stdout=told)
    except SystemExit as verdict:
        raise AssertionError(told.getvalue()) from verdict
    return told.getvalue()


def row(told: str, name: str) -> tuple[int, ...]:
    """The numbers of a row of the table: orders, lines, units."""
    found = re.search(rf"^{name} +([\d,]+) +([\d,]+) +([\d,]+)$", told, re.MULTILINE)
    assert found, told
    return tuple(int(number.replace(",", "")) for number in found.groups())


def test_buyers_rush_in_at_the_opening_and_become_fewer() -> None:
    sale = a_sale(seconds=20.0)

    moments = [visit.at_s for visit in sale.visits]

    quarters = Counter(int(at_s // 5) for at_s in moments)
    assert moments == sorted(moments)
    assert 0 <= moments[0] < moments[-1] < 20
    assert quarters[0] > 0.5 * len(moments)
    assert quarters[0] > quarters[1] > quarters[2] > quarters[3] > 0


def test_demand_falls_by_rank_and_one_sku_is_hot() -> None:
    sale = a_sale()

    lines = Counter(line.sku for wish in sale.wishes for line in wish.lines)

    by_rank = [lines[item.sku] for item in sale.items]
    assert sale.items[0].sku == "HOT-run"
    assert by_rank[0] > 0.25 * sum(by_rank)
    assert sum(by_rank[:5]) > sum(by_rank[5:20]) > sum(by_rank[20:]) > 0


def test_some_skus_sell_out_and_some_do_not() -> None:
    sale = a_sale()

    wanted = Counter[str]()
    for wish in sale.wishes:
        wanted.update({line.sku: line.quantity for line in wish.lines})

    sold_out = [item.stock < wanted[item.sku] for item in sale.items]
    assert sold_out[0]
    assert 5 < sum(sold_out) < len(sold_out) - 5


def test_people_wait_tap_twice_retry_leave_and_cancel() -> None:
    habits = Counter(visit.habit for visit in a_sale().visits)

    assert habits[Habit.WAITS] > 1500
    assert all(habits[habit] > 40 for habit in Habit)


def test_one_seed_is_one_sale() -> None:
    assert a_sale() == a_sale()
    assert a_sale() != flash_sale("run", chance=Random(2), buyers=2000)


def test_a_sale_may_have_one_sku_and_as_little_of_it_as_one_likes() -> None:
    sale = a_sale(buyers=50, skus=1, hot_stock=3)

    assert [(item.sku, item.stock) for item in sale.items] == [("HOT-run", 3)]
    assert all(len(wish.lines) == 1 for wish in sale.wishes)


class _Links(HTMLParser):
    """What a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name in {"src", "href", "xlink:href"}]


def test_a_flash_sale_ends_with_a_verdict_and_a_page_that_needs_nothing_else(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = demo(data_dir, monkeypatch, "--buyers=150", "--seconds=1.5", "--skus=12", "--seed=42")

    assert len(re.findall(r"^  (?:Ada|Grace): confirmed$", told, re.MULTILINE)) == 1
    assert len(re.findall(r": rejected, asked for 8 when 2 were left$", told, re.MULTILINE)) == 1
    ended = [row(told, name)[0] for name in ("confirmed", "rejected", "cancelled")]
    assert row(told, "asked")[0] == sum(ended) == 150
    assert min(ended) > 0
    for check in ("lost", "doubled", "oversold", "undersold"):
        assert re.search(rf"^{check} +0 ", told, re.MULTILINE)
    assert "/live as operator, password a password" in told
    (page,) = (data_dir / "demo").glob("*/report.html")
    text = page.read_text()
    assert told.rstrip().endswith(f"Report with plots: file://{page}")
    assert "Every order and every unit is accounted for." in text
    assert "--buyers 150 --seconds 1.5 --skus 12 --hot-stock 30 --seed 42" in text
    assert text.count("<svg ") == 4
    links = _Links()
    links.feed(text)
    assert [link for link in links.found if not link.startswith(("#", "data:"))] == []
    assert_at_rest(redis_client())


def test_a_sale_may_have_more_skus_than_are_watched(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = demo(data_dir, monkeypatch, "--buyers=40", "--seconds=1", "--skus=600")

    assert "600 SKUs" in told
    assert "every order and every unit accounted for" in told


def a_purchase(shop: Running) -> Bought:
    """One unit, bought."""
    name = uuid.uuid4().hex
    wish = Wish(key=name, lines=[Line(a_sku(stock=5), 1)], reference=name)

    async def buy() -> Bought:
        async with AsyncClient(shop.url, shop.api_key) as client:
            return await crowd.buy(client, [wish], buyers=1)

    return asyncio.run(buy())


def units_missing(bought: Bought) -> list[tuple[Any, ...]]:
    """Commands that take a unit away, and give it back."""
    (sku,) = bought.available
    return [("DECR", keys.stock(sku)), ("INCR", keys.stock(sku))]


def a_lock_held(bought: Bought) -> list[tuple[Any, ...]]:
    """Commands that take the lock of the order's SKU for it, and release it."""
    (sku,) = bought.available
    return [("SET", keys.lock(sku), bought.purchases[0].answers[0].id, "PX", 5000), ("DEL", keys.lock(sku))]


def in_line_still(bought: Bought) -> list[tuple[Any, ...]]:
    """Commands that put the order among those without an end, and take it out."""
    order_id = bought.purchases[0].answers[0].id
    return [("ZADD", keys.OPEN_ORDERS, 10**15, order_id), ("ZREM", keys.OPEN_ORDERS, order_id)]


@pytest.mark.parametrize("under_way", [units_missing, a_lock_held, in_line_still])
def test_what_is_under_way_a_moment_longer_is_waited_for(
    shop: Running, under_way: Callable[[Bought], list[tuple[Any, ...]]]
) -> None:
    bought = a_purchase(shop)
    before, after = under_way(bought)
    redis_client().execute_command(*before)
    later = threading.Timer(0.5, redis_client().execute_command, after)
    later.start()

    verdict = judged_at_rest(shop, bought)

    later.join()
    assert verdict.holds, str(verdict)


@pytest.mark.parametrize(
    ("wrong", "told"), [(units_missing, "miscounted"), (a_lock_held, "left behind"), (in_line_still, "lost")]
)
def test_what_stays_wrong_is_told(
    shop: Running,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[[Bought], list[tuple[Any, ...]]],
    told: str,
) -> None:
    monkeypatch.setattr("shop.management.commands.demo.AT_REST_WITHIN_S", 0.5)
    bought = a_purchase(shop)
    before, after = wrong(bought)
    redis_client().execute_command(*before)

    verdict = judged_at_rest(shop, bought)

    redis_client().execute_command(*after)
    assert [check.name for check in verdict.checks if check.wrong] == [told]


def started(data_dir: Path, *options: str, **pipes: Any) -> "subprocess.Popen[str]":
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "manage.py", "demo", *options],
        cwd=ROOT,
        env=os.environ | {"DATA_DIR": str(data_dir), "TERM": "xterm-256color"},
        text=True,
        stdout=subprocess.PIPE,
        **pipes,
    )


def test_ctrl_c_closes_the_doors_and_the_verdict_is_on_those_who_came(data_dir: Path) -> None:
    with started(data_dir, "--buyers=5000", "--seconds=600", stderr=subprocess.PIPE) as sale:
        assert sale.stderr is not None
        wait_until(lambda: "buyers came" in sale.stderr.readline(), what="buyers")

        sale.send_signal(signal.SIGINT)
        told, _ = sale.communicate(timeout=60)

    early = re.search(r"Ended early, after [\d.]+ s: ([\d,]+) of 5,000 buyers came", told)
    assert early is not None, told
    assert row(told, "asked")[0] == int(early[1].replace(",", "")) > 0
    assert "every order and every unit accounted for" in told, told
    (page,) = (data_dir / "demo").glob("*/report.html")
    assert early[0] in page.read_text()
    assert sale.returncode == 0


def test_on_a_terminal_the_sale_moves(data_dir: Path) -> None:
    control, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with started(data_dir, "--buyers=60", "--seconds=1", stderr=terminal) as sale:
        os.close(terminal)
        shown = b"".join(iter(lambda: _read(control), b"")).decode()
        told, _ = sale.communicate(timeout=60)
    os.close(control)

    assert sale.returncode == 0, told
    assert shown.count("Flash sale") > 5
    assert "\x1b[" in shown
    assert re.search("[▁▂▃▄▅▆▇█]{3}", shown)
    assert "HOT-" in shown


def _read(control: int) -> bytes:
    """What a terminal got; nothing when its last writer is gone."""
    try:
        return os.read(control, 65536)
    except OSError:
        return b""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def a_journal(seconds: float = 3.0) -> Journal:
    """What has happened until now, so many seconds after the opening."""
    journal = Journal(came=[0.1, 0.2, 1.5], ended=[(0.3, Status.CONFIRMED, 0.2), (1.6, Status.REJECTED, 0.1)])
    journal.opened -= seconds
    journal.stock.append((2.0, {"HOT-run": 7}))
    return journal


@pytest.fixture
def colours() -> re.Pattern[str]:
    """A control sequence that sets a colour."""
    return re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|38;|9[0-7])")


def shown_on(stream: io.StringIO) -> str:
    """What a display writes there."""
    with Display(a_sale(buyers=10), seconds=5.0, stream=stream) as display:
        display.show(a_journal())
    return stream.getvalue()


def test_a_terminal_has_colours_unless_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch, colours: re.Pattern[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = shown_on(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shown_on(Terminal())

    assert colours.search(coloured)
    assert not colours.search(plain)
    assert "sold out" in plain


def test_a_pipe_gets_plain_lines() -> None:
    told = shown_on(io.StringIO())

    assert told == "  3.0 s  3 of 10 buyers came  confirmed 1  rejected 1  hot item 7 of 2 left\n"


def test_a_sparkline_is_highest_where_most_happened() -> None:
    line = sparkline([0.5] * 8 + [1.5] * 4 + [3.5], until_s=4.0, width=4)

    assert line == f"{BLOCKS[-1]}{BLOCKS[3]} {BLOCKS[0]}"


@pytest.mark.parametrize(
    "option",
    ["--buyers=0", "--buyers=x", "--seconds=0.5", "--seconds=nan", "--skus=0", "--hot-stock=-1", "--seed=x"],
)
def test_options_that_make_no_sense_are_refused(option: str) -> None:
    with pytest.raises(CommandError):
        call_command("demo", option)


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call_command("demo", "--help")

    lines = capsys.readouterr().out.splitlines()
    assert '  make demo ARGS="--buyers 500 --seconds 5"          a small one' in lines
    assert max(map(len, lines)) <= 100
