"""Replaying an order history, from the command line to the verdict."""

import io
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F

from shop.models import Order, Product
from shop.stores import redis_client
from tests.builders import assert_at_rest
from tests.running import System

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
DATE = "2020-01-01 10:00:00"


@pytest.fixture
def lamp() -> str:
    """The beginning of stock codes that no other test knows."""
    return f"LAMP {uuid.uuid4().hex[:8]}"


@pytest.fixture
def history(tmp_path: Path, lamp: str) -> str:
    """Thirty sales of up to three lines, some rows out of place, and what is no sale."""
    rows = [
        f"{number},{lamp}-{(number + at) % 4},A lamp,{1 + number % 5},{DATE},1.25,{number % 7},X\n"
        for number in range(200_001, 200_031)
        for at in range(1 + number % 3)
    ]
    rows.insert(3, rows.pop(20))
    rows += [f"C200001,{lamp}-1,A lamp,-3,{DATE},1.25,1,X\n", f"200099,{lamp}-2,broken,-5,{DATE},0,,X\n"]
    path = tmp_path / "history.csv"
    path.write_text(HEADER + "".join(rows))
    return str(path)


def products(lamp: str) -> list[dict[str, Any]]:
    """The test's products in the books."""
    return list(Product.objects.filter(sku__contains=lamp).order_by("sku").values())


def replay(system: System, history: str, lamp: str, *options: str) -> str:
    """What the command says on standard output, with keys of the test's own. Raises SystemExit."""
    told = io.StringIO()
    key = f"--key-prefix={lamp.replace(' ', '-')}-"
    call_command(
        "replay", history, f"--url={system.url}", f"--api-key={system.api_key}", key, *options, stdout=told
    )
    return told.getvalue()


def row(told: str, name: str) -> tuple[int, ...]:
    """The numbers of a row of the table: orders, lines, units."""
    found = re.search(rf"^{name} +([\d,]+) +([\d,]+) +([\d,]+)$", told, re.MULTILINE)
    assert found, told
    return tuple(int(number.replace(",", "")) for number in found.groups())


def test_with_ample_stock_every_sale_is_confirmed_and_nothing_is_left(
    system: System, history: str, lamp: str
) -> None:
    told = replay(system, history, lamp)

    assert "30 sales with 60 lines" in told
    assert "passed over: 1 cancellations, 1 stock adjustments" in told
    assert row(told, "asked") == row(told, "confirmed")
    assert row(told, "rejected") == (0, 0, 0)
    assert re.search(r"4 SKUs: (\d+) units put on sale, \1 sold, 0 left", told)
    assert "every order and every unit accounted for" in told
    assert_at_rest(redis_client())


def test_with_stock_for_a_part_the_rest_is_refused_and_every_unit_counted(
    system: System, history: str, lamp: str
) -> None:
    told = replay(system, history, lamp, "--stock=60", "--sku-prefix=s60 ")

    assert row(told, "confirmed")[0] + row(told, "rejected")[0] == 30
    assert row(told, "confirmed")[0] > 0
    assert row(told, "rejected")[0] > 0
    assert "every order and every unit accounted for" in told
    assert [product["sku"] for product in products(lamp)] == [f"s60 {lamp}-{number}" for number in range(4)]
    assert_at_rest(redis_client())


def test_a_second_run_changes_nothing(system: System, history: str, lamp: str) -> None:
    first = replay(system, history, lamp, "--stock=60")
    before = (list(Order.objects.order_by("id").values()), products(lamp))

    second = replay(system, history, lamp, "--stock=60")

    assert "30 had been placed before" in second
    assert "0 SKUs put on sale" in second
    assert first.split("\n\n")[1:] == second.split("\n\n")[1:]
    assert (list(Order.objects.order_by("id").values()), products(lamp)) == before


def test_a_run_that_was_stopped_goes_on_where_it_was(system: System, history: str, lamp: str) -> None:
    replay(system, history, lamp, "--orders=12")

    told = replay(system, history, lamp)

    assert "12 had been placed before" in told
    assert row(told, "confirmed")[0] == 30


def test_invoices_and_customers_stand_in_the_orders(system: System, history: str, lamp: str) -> None:
    replay(system, history, lamp, "--orders=1")

    (order,) = Order.objects.filter(lines__sku__startswith=lamp).distinct()
    assert (order.reference, order.customer) == ("200001", str(200_001 % 7))


def test_products_that_exist_keep_their_stock(system: System, history: str, lamp: str) -> None:
    replay(system, history, lamp, "--stock=20", "--orders=1")
    before = products(lamp)

    told = replay(system, history, lamp, "--stock=ample")

    assert "4 SKUs were there and keep their stock" in told
    assert [product["on_sale"] for product in products(lamp)] == [product["on_sale"] for product in before]
    assert row(told, "rejected")[0] > 0
    assert "every order and every unit accounted for" in told


def test_without_any_stock_every_sale_is_refused(system: System, history: str, lamp: str) -> None:
    told = replay(system, history, lamp, "--stock=none")

    assert row(told, "rejected")[0] == 30
    assert products(lamp) == []
    assert "every order and every unit accounted for" in told


def test_a_unit_that_nobody_delivered_makes_the_command_fail(system: System, history: str, lamp: str) -> None:
    replay(system, history, lamp)
    product = Product.objects.filter(sku=f"{lamp}-1")
    product.update(on_sale=F("on_sale") + 1)

    with pytest.raises(SystemExit) as ended:
        replay(system, history, lamp)

    assert ended.value.code == 1
    product.update(on_sale=F("on_sale") - 1)
    replay(system, history, lamp)


def test_a_bad_file_places_nothing(system: System, tmp_path: Path, lamp: str) -> None:
    path = tmp_path / "history.csv"
    path.write_text(f"{HEADER}200001,{lamp},A lamp,1,{DATE},1,1,X\n200002,{lamp},A lamp,many,{DATE},1,1,X\n")
    orders = Order.objects.count()

    with pytest.raises(CommandError, match=r"line 3: Quantity 'many' is no whole number\nNothing was placed"):
        replay(system, str(path), lamp)

    assert Order.objects.count() == orders
    assert products(lamp) == []


def test_a_key_that_is_not_known_ends_the_replay_with_the_reason(system: System, history: str) -> None:
    with pytest.raises(CommandError, match=r"order replay-200001: .*401"):
        call_command("replay", history, f"--url={system.url}", "--api-key=rsv_wrong", "--concurrency=1")


@pytest.mark.parametrize(
    "option",
    [
        "--stock=much",
        "--stock=-5",
        "--orders=0",
        "--concurrency=x",
        "--key-prefix=a b",
        "--url=x",
        "--api-key=a b",
    ],
)
def test_options_that_make_no_sense_are_refused(system: System, history: str, lamp: str, option: str) -> None:
    with pytest.raises(CommandError):
        replay(system, history, lamp, option)

    assert products(lamp) == []


def test_without_a_running_system_the_command_says_how_to_get_one(history: str) -> None:
    with pytest.raises(CommandError, match="start one with `make up`"):
        call_command("replay", history)
