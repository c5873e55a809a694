"""Loading a catalogue: what new and known products get, and what a bad file does not do."""

import gzip
import io
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import redis
from django.core.management import CommandError, call_command

from shop import catalogue
from shop.domain import Status
from shop.fulfilment import fulfil
from shop.models import Product, StockMovement
from tests.builders import a_sku, accepted, an_order, assert_at_rest, at_once, free_in_redis

HEADER = "sku,name,price,stock\n"


def a_file(folder: Path, text: str, *, name: str = "catalogue.csv") -> str:
    path = folder / name
    path.write_bytes(text.encode())
    return str(path)


def load(path: str) -> str:
    told = io.StringIO()
    call_command("load_catalogue", path, stdout=told)
    return told.getvalue()


def test_new_products_get_their_opening_stock_and_can_be_ordered(
    client: "redis.Redis", tmp_path: Path
) -> None:
    sku = a_sku(stock=None)

    told = load(a_file(tmp_path, HEADER + f'{sku},"Lamp, ""Aurelia""",49.9,12\n'))

    product = Product.objects.get(sku=sku)
    assert (product.name, product.price, product.on_sale) == ('Lamp, "Aurelia"', Decimal("49.9"), 12)
    opening = StockMovement.objects.get(sku=sku)
    assert (opening.kind, opening.delta, opening.reason) == ("opening", 12, "catalogue")
    assert free_in_redis(client, sku) == 12
    assert told.startswith("1 products added with 12 units, 0 known")


def test_known_products_get_a_new_name_and_price_and_keep_their_stock(
    client: "redis.Redis", tmp_path: Path
) -> None:
    sku = a_sku(stock=10)
    (order,) = accepted(client, an_order((sku, 3)))
    fulfil([order], client=client)

    told = load(a_file(tmp_path, HEADER + f"{sku},A new name,3.1234,500\n"))

    product = Product.objects.get(sku=sku)
    assert (product.name, product.price) == ("A new name", Decimal("3.1234"))
    assert (product.on_sale, product.confirmed, free_in_redis(client, sku)) == (10, 3, 7)
    assert "0 products added with 0 units, 1 known (1 with a new name or price, stock untouched)" in told
    assert_at_rest(client)


def test_the_same_file_again_changes_nothing(client: "redis.Redis", tmp_path: Path) -> None:
    path = a_file(tmp_path, HEADER + f"{a_sku(stock=None)},One,1,5\n{a_sku(stock=None)},Two,2,0\n")
    load(path)
    movements = StockMovement.objects.count()

    told = load(path)

    assert "0 products added with 0 units, 2 known (0 with a new name or price" in told
    assert StockMovement.objects.count() == movements


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["without a byte order mark", "with one"])
def test_files_may_be_gzipped_and_begin_with_a_byte_order_mark(
    client: "redis.Redis", tmp_path: Path, packed: bool, mark: str
) -> None:
    sku = a_sku(stock=None)
    raw = f"{mark}{HEADER}{sku},Größe,1,5\n".encode()
    path = tmp_path / "catalogue.csv.gz"
    path.write_bytes(gzip.compress(raw) if packed else raw)

    load(str(path))

    assert Product.objects.get(sku=sku).name == "Größe"


def test_the_file_may_come_from_standard_input(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    sku = a_sku(stock=None)
    raw = io.BufferedReader(io.BytesIO(f"{HEADER}{sku},From a pipe,1,5\n".encode()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))

    load("-")

    assert Product.objects.get(sku=sku).name == "From a pipe"


def test_columns_may_stand_in_another_order_beside_others(client: "redis.Redis", tmp_path: Path) -> None:
    sku = a_sku(stock=None)

    load(a_file(tmp_path, f"stock,colour,sku,price,name\n5,red,{sku},1.50,Lamp\n\n"))

    product = Product.objects.get(sku=sku)
    assert (product.name, product.price, product.on_sale) == ("Lamp", Decimal("1.5"), 5)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (",Lamp,1,5", "sku ''"),
        (" LAMP,Lamp,1,5", "sku ' LAMP' must be"),
        ("LA\tMP,Lamp,1,5", r"sku 'LA\tMP' must be"),
        (f"{'L' * 65},Lamp,1,5", "must be 1 to 64 printable characters"),
        ("LAMP, ,1,5", "name ''"),
        (f"LAMP,{'n' * 256},1,5", "must be 1 to 255 characters"),
        ("LAMP,Lamp,,5", "price ''"),
        ("LAMP,Lamp,-1,5", "price '-1'"),
        ("LAMP,Lamp,1.00001,5", "at most 4 decimal places"),
        ("LAMP,Lamp,NaN,5", "price 'NaN'"),
        ("LAMP,Lamp,1e3,5", "price '1e3'"),
        ("LAMP,Lamp,1,", "stock ''"),
        ("LAMP,Lamp,1,-5", "stock '-5'"),
        ("LAMP,Lamp,1,5.5", "stock '5.5'"),
        ("LAMP,Lamp,1,1000000001", "from 0 to 1000000000"),
        ("LAMP,Lamp,1", "has 3 cells, and the header 4"),
        ("LAMP,Lamp,1,5,6", "has 5 cells, and the header 4"),
        ('LAMP,"Lamp"s,1,5', "',' expected after '\"'"),
        ('LAMP,"Lamp,1,5', "unexpected end of data"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_nothing_is_loaded(
    client: "redis.Redis", tmp_path: Path, row: str, fault: str
) -> None:
    good = a_sku(stock=None)
    path = a_file(tmp_path, f"{HEADER}{good},Good,1,5\n{row}\n")

    with pytest.raises(CommandError) as refused:
        load(path)

    assert "line 3: " in str(refused.value)
    assert fault in str(refused.value)
    assert "Nothing was loaded" in str(refused.value)
    assert not Product.objects.filter(sku=good).exists()


def test_every_bad_row_is_named_up_to_a_limit(client: "redis.Redis", tmp_path: Path) -> None:
    rows = "".join(f"S{number},Name,no price,5\n" for number in range(25))

    with pytest.raises(CommandError) as refused:
        load(a_file(tmp_path, HEADER + rows))

    told = str(refused.value)
    assert "25 bad row(s)" in told
    assert all(f"line {line}:" in told for line in range(2, 22))
    assert "line 22:" not in told
    assert "and 5 more" in told


def test_a_sku_that_stands_twice_is_a_bad_row(client: "redis.Redis", tmp_path: Path) -> None:
    sku = a_sku(stock=None)

    with pytest.raises(CommandError, match=r"line 4: sku .* stands in line 2 already"):
        load(a_file(tmp_path, f"{HEADER}{sku},One,1,5\n{sku} b,Two,1,5\n{sku},Three,1,5\n"))

    assert not Product.objects.filter(sku__startswith=sku).exists()


def test_line_numbers_count_the_lines_of_the_file_not_its_rows(client: "redis.Redis", tmp_path: Path) -> None:
    text = HEADER + "\n" + f'{a_sku(stock=None)},"a name\nof two lines",1,5\nX,Lamp,no price,5\n'

    with pytest.raises(CommandError) as refused:
        load(a_file(tmp_path, text))

    assert "line 3: name 'a name\\nof two lines'" in str(refused.value)
    assert "line 5: price 'no price'" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"sku,name,price\nX,Lamp,1\n", "not so: stock"),
        (b"sku,name,price,stock,sku\n", "not so: sku"),
        (b"sku,name,price,stock\nX,Gr\xf6\xdfe,1,5\n", "line 2: is not UTF-8"),
        (gzip.compress(b"sku,name,price,stock\nX,Lamp,1,5\n")[:-9], "ended before"),
    ],
    ids=["empty", "a column is missing", "a column stands twice", "latin-1", "half a gzip file"],
)
def test_what_is_no_catalogue_is_refused_with_the_reason(
    client: "redis.Redis", tmp_path: Path, content: bytes, fault: str
) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_bytes(content)

    with pytest.raises(CommandError, match=fault):
        load(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"nowhere\.csv"):
        load(str(tmp_path / "nowhere.csv"))


def test_a_load_holds_no_row_of_a_slice_that_was_written(
    client: "redis.Redis", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sale of the first SKU goes on while the second slice is written."""
    monkeypatch.setattr(catalogue, "BATCH", 1)
    first, second = sorted((a_sku(stock=5), a_sku(stock=5)))
    path = a_file(tmp_path, f"{HEADER}{first},New name,1,5\n{second},New name,1,5\n")
    ends: list[object] = []

    def sell(name: str) -> None:
        if name == "catalogue.before_load" and not ends:
            ends.append("the first slice")
        elif name == "catalogue.before_load":
            (order,) = accepted(client, an_order((first, 1)))
            ends.extend(at_once(lambda: fulfil([order], client=client)[order.id]))

    monkeypatch.setattr(catalogue, "reach", sell)

    load(path)

    assert ends == ["the first slice", Status.CONFIRMED]
