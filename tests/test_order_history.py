"""Reading a real order history: what is a sale, what is not, and what is wrong."""

import gzip
from decimal import Decimal
from pathlib import Path

import pytest

from shop import order_history
from shop.csv_table import BadFile
from shop.domain import Line
from shop.order_history import History, Sale

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
ADJUSTMENTS = "stock adjustments (a quantity not above zero)"


def a_row(
    invoice: str = "100001",
    *,
    code: str = "LAMP",
    name: str = "A lamp",
    quantity: str = "2",
    price: str = "1.50",
    customer: str = "17",
) -> str:
    return f'{invoice},{code},"{name}",{quantity},2020-01-01 10:00:00,{price},{customer},Nowhere\n'


def read(folder: Path, *rows: str, sku_prefix: str = "") -> History:
    path = folder / "history.csv"
    path.write_text(HEADER + "".join(rows))
    return order_history.read(str(path), sku_prefix=sku_prefix)


def test_rows_of_one_invoice_make_one_sale_though_another_stands_between_them(tmp_path: Path) -> None:
    history = read(
        tmp_path,
        a_row("100002", code="CUP", quantity="1"),
        a_row("100001", code="LAMP", quantity="2"),
        a_row("100002", code="DISH", quantity="3"),
    )

    assert history.sales == (
        Sale(invoice="100002", customer="17", lines=(Line("CUP", 1), Line("DISH", 3))),
        Sale(invoice="100001", customer="17", lines=(Line("LAMP", 2),)),
    )


def test_a_code_that_an_invoice_names_twice_stays_two_lines(tmp_path: Path) -> None:
    history = read(tmp_path, a_row(quantity="2"), a_row(quantity="5"))

    assert history.sales[0].lines == (Line("LAMP", 2), Line("LAMP", 5))
    assert [(item.sku, item.stock) for item in history.goods] == [("LAMP", 7)]


def test_codes_keep_their_case_and_inner_blanks_and_lose_outer_ones(tmp_path: Path) -> None:
    history = read(tmp_path, a_row(code=" Bank Charges "), a_row(code="lamp"), a_row(code="LAMP"))

    assert [item.sku for item in history.goods] == ["Bank Charges", "lamp", "LAMP"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([a_row("C100009", quantity="-2")], "cancellations"),
        ([a_row("A100009")], "invoices without a plain number"),
        ([a_row("100009", quantity="-2")], ADJUSTMENTS),
        ([a_row("100009", quantity="2"), a_row("100009", quantity="0")], ADJUSTMENTS),
        ([a_row("100009", price="0"), a_row("100009", price="-5.0")], "invoices without a price"),
    ],
)
def test_what_is_no_sale_is_passed_over_and_counted(tmp_path: Path, rows: list[str], reason: str) -> None:
    history = read(tmp_path, *rows, a_row("100001"))

    assert [sale.invoice for sale in history.sales] == ["100001"]
    assert history.passed_over == {reason: 1}


def test_an_invoice_with_one_price_above_zero_is_a_sale_with_all_its_lines(tmp_path: Path) -> None:
    history = read(tmp_path, a_row(code="CUP", price="0"), a_row(code="LAMP", price="0.001"))

    assert [line.sku for line in history.sales[0].lines] == ["CUP", "LAMP"]
    assert [item.price for item in history.goods] == [Decimal(0), Decimal("0.001")]


@pytest.mark.parametrize(
    ("cell", "customer"), [("17850", "17850"), ("17850.0", "17850"), ("", None), (" A-7 ", "A-7")]
)
def test_customers_are_whole_numbers_or_words_or_missing(
    tmp_path: Path, cell: str, customer: str | None
) -> None:
    history = read(tmp_path, a_row(customer=cell))

    assert history.sales[0].customer == customer


def test_goods_carry_the_first_name_that_says_something(tmp_path: Path) -> None:
    history = read(
        tmp_path,
        a_row(name="  "),
        a_row(name=" A lamp, 2' tall "),
        a_row(name="Another name"),
        a_row(code="CUP", name=""),
    )

    assert [(item.sku, item.name) for item in history.goods] == [("LAMP", "A lamp, 2' tall"), ("CUP", "CUP")]


def test_a_prefix_makes_stock_codes_of_its_own(tmp_path: Path) -> None:
    history = read(tmp_path, a_row(code="LAMP"), sku_prefix="s60-")

    assert history.sales[0].lines == (Line("s60-LAMP", 2),)
    assert [item.sku for item in history.goods] == ["s60-LAMP"]


def test_quantities_may_have_an_empty_fraction(tmp_path: Path) -> None:
    assert read(tmp_path, a_row(quantity="6.0")).sales[0].lines == (Line("LAMP", 6),)


def test_the_file_may_be_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "history.csv.gz"
    path.write_bytes(gzip.compress((HEADER + a_row()).encode()))

    assert len(order_history.read(str(path)).sales) == 1


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (a_row(quantity="6.5"), "Quantity '6.5' is no whole number"),
        (a_row(quantity=""), "Quantity '' is no whole number"),
        (a_row(quantity="1000001"), "Quantity '1000001' is more than one order line may ask for"),
        (a_row(price="free"), "UnitPrice 'free' is no price"),
        (a_row(price="NaN"), "UnitPrice 'NaN' is no price"),
        (a_row(price="Infinity"), "UnitPrice 'Infinity' is no price"),
        (a_row(code=""), "StockCode makes the SKU ''"),
        (a_row(code="L" * 65), "1 to 64 printable characters"),
        (a_row(customer="1" * 256), "CustomerID"),
        ("100001,LAMP,A lamp,2\n", "has 4 cells, and the header 8"),
    ],
)
def test_cells_that_make_no_sense_are_named_by_their_line(tmp_path: Path, row: str, fault: str) -> None:
    with pytest.raises(BadFile) as refused:
        read(tmp_path, a_row(), row, a_row(quantity="many"))

    _, third, fourth = str(refused.value).splitlines()
    assert third.startswith("line 3: ")
    assert fault in third
    assert fourth == "line 4: Quantity 'many' is no whole number"


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("sku,name,price,stock\n")

    with pytest.raises(BadFile, match=r"line 1: must be a header with the columns InvoiceNo"):
        order_history.read(str(path))
