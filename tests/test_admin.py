"""What staff sees and does in the admin, through HTTP."""

import html
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.admin import site
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote as quoted
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from shop import fulfilment, keys
from shop.admin.listing import PAGE
from shop.admin.orders import NEWEST
from shop.domain import Order, Status
from shop.models import ApiKey, OrderIdentity, OrderLine, Product, StockMovement
from shop.models import Order as OrderRow
from shop.stores import redis_client
from tests.builders import a_sku, accepted, an_order, at_once, free_in_redis, wait_until
from tests.running import System
from tests.staff import Shown, Staff, a_user
from workers.embedded import RedisServer


@pytest.fixture(scope="module")
def staff(system: System) -> Staff:
    """Somebody who may do everything."""
    return Staff(system.url, a_user())


def page_of(order_id: str) -> str:
    return f"/admin/shop/order/{order_id}/change/"


def stock_page(sku: str) -> str:
    return site._registry[Product].address_of("stock", quoted(sku))  # type: ignore[attr-defined]


def told(page: Shown, table: str = "timeline") -> list[list[str]]:
    """The cells of a table's rows."""
    found = re.search(rf'<table class="wide" id="{table}">.*?<tbody>(.*?)</tbody>', page.body, re.DOTALL)
    assert found, page.body
    rows = re.findall(r"<tr>(.*?)</tr>", found.group(1), re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in cells]


def happened(page: Shown) -> list[str]:
    """What a timeline tells, without when."""
    return [what for _, what, *_ in told(page)]


def ended(system: System, *lines: tuple[str, int], **more: Any) -> dict[str, Any]:
    """An order that has its end."""
    order: dict[str, Any] = system.end_of(system.place(*lines, **more).body["id"]).body
    return order


def waiting(*lines: tuple[str, int]) -> Order:
    """An order that was accepted, and whose message was lost: it waits until somebody puts it in line."""
    (order,) = accepted(redis_client(), an_order(*lines))
    return order


def log_of(object_id: str) -> list[tuple[str, str]]:
    """What the log says of a thing: who, and what."""
    entries = LogEntry.objects.filter(object_id=object_id).select_related("user").order_by("id")
    return [(entry.user.get_username(), entry.get_change_message()) for entry in entries]


# --- an order's life ------------------------------------------------------------------------------


def test_the_life_of_an_order_is_told_from_its_acceptance_to_its_settling(
    system: System, staff: Staff
) -> None:
    sku = a_sku(stock=5)
    order = ended(system, (sku, 2), customer="17850", reference="PO 1")

    page = staff.get(page_of(order["id"]))

    assert happened(page) == ["Accepted", "Begun", "Decided: confirmed", "Sold", "Settled: confirmed"]
    assert told(page, "lines") == [[sku, "2"]]
    assert [row[2:] for row in told(page, "movements")] == [[sku, "sale", "-2"]]
    assert "17850" in page.body
    assert "PO 1" in page.body


def test_a_rejected_order_s_life_tells_what_was_short(system: System, staff: Staff) -> None:
    sku = a_sku(stock=5)

    page = staff.get(page_of(ended(system, (sku, 8))["id"]))

    (decided,) = [row for row in told(page) if row[1] == "Decided: rejected"]
    assert decided[2] == f"insufficient stock; {sku}: 8 asked for, 5 free"


def test_a_cancelled_order_s_life_still_tells_when_it_was_confirmed(system: System, staff: Staff) -> None:
    sku = a_sku(stock=5)
    order = ended(system, (sku, 2))
    confirmed_at = OrderRow.objects.get(pk=order["id"]).updated_at
    system.send("POST", f"{order['href']}/cancel")
    wait_until(lambda: system.get(order["href"]).body["status"] == "cancelled", what="the cancellation")
    # As after a day.
    redis_client().delete(keys.order(order["id"]))

    page = staff.get(page_of(order["id"]))

    assert happened(page) == ["Accepted", "Decided: confirmed", "Sold", "Cancelled", "Back on sale"]
    assert told(page)[1][0] == confirmed_at.strftime("%Y-%m-%d %H:%M:%S.%f")


def test_an_order_that_waits_is_found_by_its_id_though_redis_alone_has_it(
    system: System, staff: Staff
) -> None:
    order = waiting((a_sku(stock=5), 2))

    page = staff.get(f"/admin/shop/order/?q={order.id}")
    line = staff.get("/admin/shop/order/waiting/")

    assert page.path == page_of(order.id)
    assert not OrderRow.objects.filter(pk=order.id).exists()
    assert [row[1:] for row in told(page)] == [
        ["Accepted", f"from {order.client}: recorded, its key claimed, and put in line", "Redis"]
    ]
    assert order.id in line.body


def test_the_locks_of_an_order_are_told_while_it_holds_them(system: System, staff: Staff) -> None:
    sku = a_sku(stock=5)
    order = waiting((sku, 2))
    client = redis_client()
    fulfilment.stock.refresh(client, [sku])
    rules = fulfilment.Rules(lock_ttl_ms=keys.LOCK_TTL_MS)

    fulfilment._run_reserve([order], "a call", client, rules)
    page, product = staff.get(page_of(order.id)), staff.get(stock_page(sku))

    (reserved,) = [row for row in told(page) if row[1] == "Reserved"]
    assert reserved[2] == f"locks held: {sku}"
    assert f"by order {order.id}" in product.body


def test_where_the_stores_differ_for_a_moment_that_is_said(system: System, staff: Staff) -> None:
    order = ended(system, (a_sku(stock=5), 2))
    redis_client().hset(keys.order(order["id"]), "status", "queued")

    page = staff.get(page_of(order["id"]))

    assert "Redis says queued, PostgreSQL confirmed" in page.body
    assert "Not settled yet" in happened(page)


def test_an_order_that_nobody_knows_is_said_to_be_unknown(staff: Staff) -> None:
    unknown = str(uuid.uuid4())

    shown, searched = staff.get(page_of(unknown)), staff.get(f"/admin/shop/order/?q={unknown}")

    assert shown.path == "/admin/shop/order/"
    assert f"knows an order {unknown}" in shown.body
    assert "0 orders on this page" in searched.body


def test_a_reference_that_looks_like_an_order_s_id_is_found_as_a_reference(
    system: System, staff: Staff
) -> None:
    reference = str(uuid.uuid4())
    order = ended(system, (a_sku(stock=5), 1), reference=reference)

    assert ids_in(staff.get(f"/admin/shop/order/?q={reference}")) == [order["id"]]


def test_without_redis_staff_still_sees_what_postgresql_knows(
    system: System, staff: Staff, redis_server: RedisServer
) -> None:
    sku = a_sku(stock=5)
    order = ended(system, (sku, 2))

    redis_server.stop()
    try:
        page, product, line = (
            staff.get(path) for path in (page_of(order["id"]), stock_page(sku), "/admin/shop/order/waiting/")
        )
    finally:
        redis_server.start()

    assert "Redis is away" in page.body
    assert happened(page) == ["Accepted", "Decided: confirmed", "Sold"]
    assert "Redis is away" in product.body
    assert "Redis is away" in line.body


def test_without_redis_nothing_is_done_and_staff_is_told_to_try_again(
    system: System, staff: Staff, redis_server: RedisServer
) -> None:
    sku = a_sku(stock=5)
    order = ended(system, (sku, 2))
    keys_before = ApiKey.objects.count()

    redis_server.stop()
    try:
        cancelled = staff.post(f"/admin/shop/order/{order['id']}/cancel/")
        enqueued = staff.post(f"/admin/shop/order/{order['id']}/enqueue/")
        moved, made = move(staff, sku, delta=3), new_key(staff, "nobody")
    finally:
        redis_server.start()

    assert "Nothing was done, try again" in cancelled.body
    assert "Nothing was done, try again" in enqueued.body
    assert "Nothing can be said of it; send it again" in moved.body
    assert "No key was made" in made.body
    assert OrderRow.objects.get(pk=order["id"]).status == "confirmed"
    assert (Product.objects.get(pk=sku).on_sale, ApiKey.objects.count()) == (5, keys_before)
    assert log_of(sku) == log_of(order["id"]) == []


# --- lists ----------------------------------------------------------------------------------------


def stored(count: int, *, at: datetime | None = None, **fields: Any) -> list[OrderRow]:
    """Rows of orders that ended long ago, all accepted at one moment."""
    at = at or datetime.now(UTC) - timedelta(days=30)
    rows = [
        OrderRow(
            id=uuid.uuid4(), accepted_at=at, **{"client": "stored", "status": Status.CONFIRMED, **fields}
        )
        for _ in range(count)
    ]
    OrderIdentity.objects.bulk_create(OrderIdentity(id=row.id, accepted_at=at) for row in rows)
    return OrderRow.objects.bulk_create(rows)


def ids_in(page: Shown) -> list[str]:
    return re.findall(r"/admin/shop/order/([0-9a-f-]{36})/change/", page.body)


def walked(staff: Staff, path: str, found_in: Callable[[Shown], list[str]]) -> list[str]:
    """Everything that a list shows, page after page."""
    found: list[str] = []
    while path:
        page = staff.get(path)
        found += found_in(page)
        following = re.search(r'<a href="(\?[^"]+)" rel="next">', page.body)
        path = path.split("?", maxsplit=1)[0] + html.unescape(following.group(1)) if following else ""
    return found


def test_pages_show_each_order_once_in_the_order_of_time_also_those_of_one_moment(staff: Staff) -> None:
    customer = f"customer {uuid.uuid4().hex}"
    orders = stored(2 * PAGE + 7, customer=customer) + stored(
        3, customer=customer, at=datetime.now(UTC) - timedelta(days=31)
    )

    found = walked(staff, f"/admin/shop/order/?q={quote(customer)}", ids_in)

    expected = sorted(orders, key=lambda order: (order.accepted_at, order.id), reverse=True)
    assert found == [str(order.id) for order in expected]


def test_orders_are_found_by_customer_reference_and_sku_exactly(system: System, staff: Staff) -> None:
    sku, customer, reference = a_sku(stock=5), f"c {uuid.uuid4().hex}", f"PO/{uuid.uuid4().hex} %_"
    order = ended(system, (sku, 1), customer=customer, reference=reference)
    ended(system, (a_sku(stock=5), 1), customer=f"{customer}2", reference=f"{reference}2")

    found = {
        term: ids_in(staff.get(f"/admin/shop/order/?q={quote(term)}")) for term in (sku, customer, reference)
    }

    assert found == {term: [order["id"]] for term in (sku, customer, reference)}


def test_all_orders_of_who_has_most_of_the_newest_ones_are_found(staff: Staff) -> None:
    customer = f"customer {uuid.uuid4().hex}"
    orders = stored(NEWEST, customer=customer, at=datetime.now(UTC) + timedelta(days=1))

    found = walked(staff, f"/admin/shop/order/?q={quote(customer)}", ids_in)

    assert found == [str(order.id) for order in sorted(orders, key=lambda order: order.id, reverse=True)]


def test_orders_are_narrowed_down_by_status(system: System, staff: Staff) -> None:
    customer = f"customer {uuid.uuid4().hex}"
    (failed,) = stored(1, customer=customer, status=Status.FAILED)
    stored(2, customer=customer)

    found = ids_in(staff.get(f"/admin/shop/order/?q={quote(customer)}&status=failed"))

    assert found == [str(failed.id)]


def test_an_address_with_a_page_that_is_none_leads_to_the_first_page(staff: Staff) -> None:
    for nonsense in ("2", "x~y", "2026-01-01~z", "~"):
        shown = staff.get(f"/admin/shop/order/?p={nonsense}")

        assert (shown.status, shown.path) == (200, "/admin/shop/order/?e=1")


def test_the_ledger_of_a_sku_is_shown_page_by_page(staff: Staff) -> None:
    sku = a_sku(stock=1)
    StockMovement.objects.bulk_create(
        StockMovement(sku=sku, kind=StockMovement.Kind.ADJUSTMENT, delta=1, reason=f"no {n}")
        for n in range(PAGE + 5)
    )
    Product.objects.filter(sku=sku).update(on_sale=1 + PAGE + 5)

    found = walked(
        staff,
        f"/admin/shop/stockmovement/?q={quote(sku)}",
        lambda page: re.findall(r'class="field-reason">([^<]+)<', page.body),
    )

    assert found[:-1] == [f"no {n}" for n in reversed(range(PAGE + 5))]


def test_the_ledger_leads_from_an_order_s_id_to_the_order(system: System, staff: Staff) -> None:
    order = ended(system, (a_sku(stock=5), 1))

    assert staff.get(f"/admin/shop/stockmovement/?q={order['id']}").path == page_of(order["id"])


def test_products_show_their_stock_in_both_stores(system: System, staff: Staff) -> None:
    sold, untouched = a_sku(stock=5), a_sku(stock=7)
    ended(system, (sold, 2))

    rows = [staff.get(f"/admin/shop/product/?q={quote(sku)}").body for sku in (sold, untouched)]

    columns = ("on_sale", "confirmed", "free_in_books", "free_in_redis", "versions")
    found = [[re.findall(rf'class="field-{name}">([^<]+)<', row)[0] for name in columns] for row in rows]
    assert found == [["5", "2", "3", "3", "2 / 2"], ["7", "0", "7", "no counter", "1 / -"]]


@pytest.mark.parametrize("sku", ["a/b", "a?b=c&d", "100%", "x_y", "../..", "ünïcode 1", '"quoted" <b>'])
def test_a_product_of_any_name_has_a_page_and_its_stock_can_be_moved(staff: Staff, sku: str) -> None:
    a_sku(stock=1, sku=f"{sku} {uuid.uuid4().hex[:6]}")
    sku = Product.objects.filter(sku__startswith=sku).latest("changed_at").sku
    row = staff.get(f"/admin/shop/product/?q={quote(sku)}").body
    link = re.findall(r'class="field-sku"><a href="([^"?]+)', row)
    assert link == [stock_page(sku)]

    moved = move(staff, sku, delta=4)

    assert html.escape(sku) in moved.body
    assert Product.objects.get(pk=sku).on_sale == 5


LISTS = {
    "orders": "/admin/shop/order/",
    "orders of a status": "/admin/shop/order/?status=failed",
    "orders of a customer": "/admin/shop/order/?q=17850",
    "products": "/admin/shop/product/",
    "ledger": "/admin/shop/stockmovement/",
    "ledger of a SKU": "/admin/shop/stockmovement/?q=x",
    "ledger of a kind": "/admin/shop/stockmovement/?kind__exact=adjustment",
    "API keys": "/admin/shop/apikey/",
    "pauses": "/admin/shop/pausechange/",
    "what staff did": "/admin/admin/logentry/",
}


def statements(staff: Staff, path: str) -> list[str]:
    """What a page asks PostgreSQL, in this process."""
    from django.test import Client

    browser = Client(headers={"host": "localhost"})
    browser.force_login(User.objects.get(username=staff.name))
    with CaptureQueriesContext(connection) as asked:
        assert browser.get(path).status_code == 200
    return [str(query["sql"]) for query in asked.captured_queries]


@pytest.mark.parametrize("path", LISTS.values(), ids=LISTS)
def test_a_list_asks_postgresql_no_more_often_the_more_it_shows(staff: Staff, path: str) -> None:
    before = statements(staff, path)
    stored(30, status=Status.FAILED, customer="17850")
    for _ in range(30):
        a_sku(stock=1)
        ApiKey.objects.create(digest=uuid.uuid4().hex, client="x", scopes=["orders"])
    someone = User.objects.get(username=staff.name)
    for n in range(30):
        StockMovement.objects.create(
            sku="x", kind=StockMovement.Kind.ADJUSTMENT, delta=1, order_id=uuid.uuid4()
        )
        LogEntry.objects.create(user=someone, action_flag=2, object_id=str(n))

    after = statements(staff, path)

    assert len(after) == len(before)
    assert not [statement for statement in after if "COUNT(" in statement and "shop_" in statement]


GROWING = ["shop_order", "shop_orderidentity", "shop_stockmovement"]


def plan_of(statement: str) -> str:
    """How PostgreSQL would find the answer in tables of a million rows of which it knows nothing more.

    Reading a whole table is out of the question. What other tests have left in the tables must not matter.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM pg_statistic WHERE starelid = ANY(%s::regclass[]::oid[])", [GROWING])
        cursor.execute(
            "UPDATE pg_class SET reltuples = 1e6, relpages = greatest(relpages, 1) WHERE oid = ANY(%s::regclass[]::oid[])",
            [GROWING],
        )
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {statement}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
        transaction.set_rollback(True)
    return plan


def reads_all(plan: str) -> bool:
    """Whether a plan reads a table, or an index from its beginning, and throws away what it did not look for."""
    nodes = re.split(r"->", plan)
    blind = [node for node in nodes if "Filter:" in node and "Cond:" not in node]
    return "Seq Scan" in plan or bool(blind)


@pytest.mark.parametrize(
    "path", [path for path in LISTS.values() if "shop/order" in path or "movement" in path]
)
def test_lists_of_what_only_grows_are_found_by_an_index(staff: Staff, path: str) -> None:
    growing = [
        s for s in statements(staff, path) if 'FROM "shop_order"' in s or 'FROM "shop_stockmovement"' in s
    ]

    plans = [plan_of(statement) for statement in growing]

    assert plans
    assert [plan for plan in plans if reads_all(plan)] == []


def test_a_search_without_an_index_would_be_noticed() -> None:
    assert "Filter" in plan_of(
        "SELECT * FROM shop_order WHERE client = 'x' ORDER BY accepted_at DESC LIMIT 50"
    )


def test_pages_leave_no_connection_behind(staff: Staff) -> None:
    for _ in range(60):
        staff.get("/admin/shop/order/")

    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reserva'")
        (open_connections,) = cursor.fetchone()
    assert open_connections < 40


# --- deeds ----------------------------------------------------------------------------------------


def test_staff_cancels_a_confirmed_order_and_its_units_return(system: System, staff: Staff) -> None:
    sku = a_sku(stock=5)
    order = ended(system, (sku, 2))

    asked = staff.get(f"/admin/shop/order/{order['id']}/cancel/")
    shown = staff.post(f"/admin/shop/order/{order['id']}/cancel/")
    wait_until(lambda: system.get(order["href"]).body["status"] == "cancelled", what="the cancellation")

    assert "Its units go back on sale, once." in asked.body
    assert shown.path == page_of(order["id"])
    assert Product.objects.get(pk=sku).confirmed == 0
    assert log_of(order["id"]) == [(staff.name, "Asked for its cancellation.")]
    assert "Staff" in happened(staff.get(page_of(order["id"])))


def test_asking_whether_to_cancel_cancels_nothing(system: System, staff: Staff) -> None:
    order = ended(system, (a_sku(stock=5), 2))

    staff.get(f"/admin/shop/order/{order['id']}/cancel/")

    assert not redis_client().zscore(keys.CANCELLATIONS, order["id"])
    assert system.get(order["href"]).body["status"] == "confirmed"


def test_a_rejected_order_is_not_cancelled(system: System, staff: Staff) -> None:
    order = ended(system, (a_sku(stock=5), 8))

    shown = staff.post(f"/admin/shop/order/{order['id']}/cancel/")

    assert "there is nothing to cancel" in shown.body
    assert "Cancel this order" not in shown.body
    assert log_of(order["id"]) == []


def test_staff_puts_an_order_in_line_again_and_it_ends(system: System, staff: Staff) -> None:
    sku = a_sku(stock=5)
    order = waiting((sku, 2))

    shown = staff.post(f"/admin/shop/order/{order.id}/enqueue/")

    assert "in line again" in shown.body
    wait_until(lambda: redis_client().hget(keys.order(order.id), "status") == "confirmed", what="its end")
    assert log_of(order.id) == [(staff.name, "Put in line again.")]


def test_an_order_that_has_ended_is_not_put_in_line_again(system: System, staff: Staff) -> None:
    order = ended(system, (a_sku(stock=5), 2))

    shown = staff.post(f"/admin/shop/order/{order['id']}/enqueue/")

    assert "has ended" in shown.body
    assert "Enqueue again" not in shown.body
    assert log_of(order["id"]) == []


def move(staff: Staff, sku: str, *, delta: object, reason: str = "delivery", key: object = None) -> Shown:
    """Send the form that moves stock."""
    return staff.post(
        stock_page(sku).replace("/change/", "/move/"), delta=delta, reason=reason, key=key or uuid.uuid4()
    )


def test_staff_moves_stock_with_a_reason_and_buyers_have_it_at_once(system: System, staff: Staff) -> None:
    sku = a_sku(stock=5)
    ended(system, (sku, 5))

    shown = move(staff, sku, delta=10, reason="found in the cellar")

    assert shown.path == stock_page(sku)
    assert ended(system, (sku, 8))["status"] == "confirmed"
    made = StockMovement.objects.get(sku=sku, kind=StockMovement.Kind.ADJUSTMENT)
    assert (made.delta, made.reason, made.client) == (10, "found in the cellar", f"staff:{staff.name}")
    assert log_of(sku) == [(staff.name, "Moved +10 units: found in the cellar")]
    assert "found in the cellar" in staff.get(stock_page(sku).replace("/change/", "/history/")).body


def test_a_form_sent_twice_at_once_moves_stock_once(system: System, staff: Staff) -> None:
    sku, key = a_sku(stock=5), uuid.uuid4()

    shown = at_once(*[lambda: move(staff, sku, delta=3, key=key)] * 4)

    assert [page.path for page in shown if isinstance(page, Shown)] == [stock_page(sku)] * 4
    assert Product.objects.get(pk=sku).on_sale == 8
    assert free_in_redis(redis_client(), sku) == 8
    assert log_of(sku) == [(staff.name, "Moved +3 units: delivery")]


def test_the_page_of_a_product_gives_each_form_a_key_of_its_own(staff: Staff) -> None:
    sku = a_sku(stock=5)

    found = [re.findall(r'name="key" value="([^"]+)"', staff.get(stock_page(sku)).body) for _ in range(2)]

    assert all(len(each) == 1 for each in found)
    assert found[0] != found[1]
    for (key,) in found:
        move(staff, sku, delta=3, key=key)
    assert Product.objects.get(pk=sku).on_sale == 11


@pytest.mark.parametrize(
    ("delta", "reason", "told_to"),
    [
        (-6, "shrinkage", "Only 5 units are free to be taken."),
        (0, "nothing", "A movement of nothing is none."),
        ("many", "x", "Enter a whole number."),
        (1.5, "x", "Enter a whole number."),
        (10**10, "x", "less than or equal to"),
        (1, "", "This field is required."),
        (1, "two\nlines", "One line of text"),
        (1, "x" * 256, "at most 255 characters"),
    ],
)
def test_a_movement_that_cannot_be_is_refused_with_the_reason(
    staff: Staff, delta: object, reason: str, told_to: str
) -> None:
    sku = a_sku(stock=5)

    shown = move(staff, sku, delta=delta, reason=reason)

    assert shown.status == 422
    assert told_to in shown.body
    assert Product.objects.get(pk=sku).on_sale == 5
    assert log_of(sku) == []


def test_a_form_that_was_sent_before_with_something_else_in_it_is_refused(staff: Staff) -> None:
    sku, key = a_sku(stock=5), uuid.uuid4()
    move(staff, sku, delta=3, key=key)

    shown = move(staff, sku, delta=4, key=key)

    assert (shown.status, Product.objects.get(pk=sku).on_sale) == (422, 8)
    assert "sent before, with something else in it" in shown.body


def new_key(staff: Staff, client: str, *, form: str = "", scopes: object = ("orders",)) -> Shown:
    """Send the form that makes an API key."""
    return staff.post("/admin/shop/apikey/add/", client=client, scopes=scopes, form=form or uuid.uuid4().hex)


def key_in(page: Shown) -> str:
    found = re.search(r'id="api-key" class="secret">([^<]+)<', page.body)
    return found.group(1) if found else ""


@pytest.mark.parametrize(
    ("client", "why"), [("storefront", "name of the shop itself"), ("a:b", "1 to 64 letters")]
)
def test_no_api_key_is_made_under_a_name_that_is_not_allowed(staff: Staff, client: str, why: str) -> None:
    page = new_key(staff, client)

    assert (page.status, key_in(page)) == (422, "")
    assert why in page.body


def test_an_api_key_is_made_works_and_is_shown_this_once(system: System, staff: Staff) -> None:
    client, form = f"client-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex

    key = key_in(new_key(staff, client, form=form))
    again = new_key(staff, client, form=form)

    assert system.send("GET", "/api/v1/products", api_key=key).status == 200
    assert "has made a key before" in again.body
    assert key not in again.body + staff.get(f"/admin/shop/apikey/?q={client}").body
    (made,) = ApiKey.objects.filter(client=client)
    assert log_of(made.digest) == [(staff.name, f"Made a key for {client} (orders).")]


def test_a_revoked_key_ends_and_the_client_s_other_key_goes_on(system: System, staff: Staff) -> None:
    client = f"client-{uuid.uuid4().hex[:8]}"
    leaked, other = (key_in(new_key(staff, client)) for _ in range(2))
    digest = ApiKey.objects.filter(client=client).earliest("created_at").digest

    asked = staff.get(f"/admin/shop/apikey/{digest}/revoke/")
    assert system.send("GET", "/api/v1/products", api_key=leaked).status == 200
    staff.post(f"/admin/shop/apikey/{digest}/revoke/")

    assert client in asked.body
    wait_until(
        lambda: system.send("GET", "/api/v1/products", api_key=leaked).status == 401,
        timeout_s=5,
        what="the end of the key",
    )
    assert system.send("GET", "/api/v1/products", api_key=other).status == 200
    assert (staff.name, "Revoked.") in log_of(digest)


@pytest.mark.parametrize(
    ("client", "scopes"),
    [("", ["orders"]), ("a:b", ["orders"]), ("x" * 65, ["orders"]), ("shop", []), ("shop", ["all"])],
)
def test_a_key_for_nobody_or_nothing_is_not_made(staff: Staff, client: str, scopes: list[str]) -> None:
    before = ApiKey.objects.count()

    shown = new_key(staff, client, scopes=scopes)

    assert (shown.status, ApiKey.objects.count()) == (422, before)


# --- what must not be ------------------------------------------------------------------------------


def state_of(things: dict[str, str]) -> list[Any]:
    """All that the tables say of these things, to see that nothing of it changed; and how many keys there are."""
    chosen = (
        OrderRow.objects.filter(pk=things["order"]),
        OrderLine.objects.filter(order_id=things["order"]),
        StockMovement.objects.filter(sku=things["product"]).order_by("id"),
        Product.objects.filter(pk=things["product"]),
        ApiKey.objects.filter(pk=things["apikey"]),
    )
    return [*(list(rows.values_list()) for rows in chosen), ApiKey.objects.count()]


@pytest.fixture
def things(system: System) -> dict[str, str]:
    """One of each kind of thing, by the address of its kind."""
    order = ended(system, (a_sku(stock=5), 2))
    movement = StockMovement.objects.latest("id")
    key = ApiKey.objects.earliest("created_at")
    return {
        "order": order["id"],
        "stockmovement": str(movement.id),
        "product": movement.sku,
        "apikey": key.digest,
    }


@pytest.mark.parametrize("kind", ["order", "stockmovement", "product", "apikey"])
def test_nothing_is_edited_added_or_deleted_by_hand_not_even_by_a_superuser(
    staff: Staff, things: dict[str, str], kind: str
) -> None:
    there = f"/admin/shop/{kind}/{quote(things[kind].replace('_', '_5F'), safe='')}"
    fields = {
        "status": "confirmed",
        "sku": "x",
        "on_sale": 10**6,
        "delta": 10**6,
        "kind": "opening",
        "client": "me",
    }
    before, logged = state_of(things), LogEntry.objects.count()

    statuses = {
        "change": staff.post(f"{there}/change/", **fields, _save="Save").status,
        "delete": staff.post(f"{there}/delete/", post="yes").status,
        "add": staff.post(f"/admin/shop/{kind}/add/", **fields).status,
    }
    staff.post(
        f"/admin/shop/{kind}/", action="delete_selected", _selected_action=things[kind], post="yes", index=0
    )
    form_set = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "form-0-status": "x", "_save": "Save"}
    staff.post(f"/admin/shop/{kind}/", **form_set)

    assert statuses["change"] in (403, 405)
    assert statuses["delete"] == 403
    assert statuses["add"] == (422 if kind == "apikey" else 403)
    assert state_of(things) == before
    assert LogEntry.objects.count() == logged


@pytest.mark.parametrize("kind", ["order", "stockmovement", "product", "apikey"])
def test_pages_offer_nothing_to_edit(staff: Staff, things: dict[str, str], kind: str) -> None:
    shown = staff.get(f"/admin/shop/{kind}/{quote(things[kind], safe='')}/change/")

    assert shown.status == 200
    assert 'name="_save"' not in shown.body
    assert "deletelink" not in shown.body


def test_the_log_of_what_staff_did_can_be_read_and_not_changed(staff: Staff) -> None:
    sku = a_sku(stock=5)
    move(staff, sku, delta=3)
    entry = LogEntry.objects.get(object_id=sku)

    shown = staff.get(f"/admin/admin/logentry/?q={staff.name}")
    statuses = [
        staff.post(f"/admin/admin/logentry/{entry.pk}/{deed}/", post="yes", change_message="x").status
        for deed in ("change", "delete")
    ]

    assert "Moved +3 units: delivery" in shown.body
    assert statuses == [403, 403]
    assert LogEntry.objects.get(pk=entry.pk).get_change_message() == "Moved +3 units: delivery"


VIEWING = ("view_order", "view_product", "view_stockmovement", "view_apikey", "view_pausechange")


def test_who_may_only_look_sees_everything_and_no_way_to_change_it(
    system: System, things: dict[str, str]
) -> None:
    looking = Staff(system.url, a_user(*VIEWING))
    order = waiting((a_sku(stock=5), 2))

    pages = [looking.get(path) for path in [*LISTS.values()][:-1]]
    shown = [looking.get(page_of(order.id)), looking.get(stock_page(things["product"]))]

    assert {page.status for page in [*pages, *shown]} == {200}
    offered = " ".join(page.body for page in [*pages, *shown])
    assert [
        way
        for way in ("Enqueue again", "Cancel this order", "Move stock", ">Revoke<", "addlink")
        if way in offered
    ] == []


def test_who_may_only_look_changes_nothing_by_hand_either(system: System, things: dict[str, str]) -> None:
    looking = Staff(system.url, a_user(*VIEWING))
    order = waiting((a_sku(stock=5), 2))
    before = state_of(things)

    statuses = [
        looking.post(f"/admin/shop/order/{order.id}/cancel/").status,
        looking.post(f"/admin/shop/order/{order.id}/enqueue/").status,
        move(looking, things["product"], delta=5).status,
        new_key(looking, "me").status,
        looking.post(f"/admin/shop/apikey/{things['apikey']}/revoke/").status,
    ]

    assert statuses == [403] * 5
    assert state_of(things) == before
    assert not redis_client().hexists(keys.order(order.id), "cancel")


@pytest.mark.parametrize(
    ("permission", "path"),
    [
        ("change_order", "/admin/shop/order/{order}/cancel/"),
        ("add_apikey", "/admin/shop/apikey/add/"),
        ("change_apikey", "/admin/shop/apikey/{apikey}/revoke/"),
    ],
)
def test_each_deed_has_a_permission_of_its_own(
    system: System, things: dict[str, str], permission: str, path: str
) -> None:
    allowed = Staff(system.url, a_user(*VIEWING, permission))

    assert allowed.get(path.format(**things)).status == 200


def test_staff_without_a_permission_sees_nothing_of_the_kind(system: System, things: dict[str, str]) -> None:
    buyer = Staff(system.url, a_user("view_product"))

    statuses = [
        buyer.get(path).status
        for path in (
            "/admin/shop/order/",
            "/admin/shop/order/waiting/",
            page_of(things["order"]),
            "/admin/admin/logentry/",
        )
    ]

    assert statuses == [403] * 4
    told = [line for line in system.log("web").splitlines() if "Permission denied" in line]
    assert told
    assert [line for line in told if "Traceback" in line] == []


def test_nobody_gets_in_without_signing_in_or_acts_without_the_form_s_token(
    system: System, staff: Staff, things: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (page_of(things["order"]), "/admin/shop/order/waiting/", "/admin/shop/apikey/add/"):
        assert "this_is_the_login_form" in system.get(path).body or "Log in" in system.get(path).body

    monkeypatch.setattr(Staff, "token", "")
    assert staff.post(f"/admin/shop/order/{things['order']}/cancel/").status == 403
    assert system.get(f"/api/v1/orders/{things['order']}").body["status"] == "confirmed"


def test_the_admin_leads_to_flower_where_there_is_one(system: System, things: dict[str, str]) -> None:
    assert "Flower" not in Staff(system.url, a_user()).get(page_of(things["order"])).body

    system.stop("web")
    system.start("web", FLOWER_URL="http://flower.example/")
    page = Staff(system.url, a_user()).get(page_of(things["order"]))
    system.stop("web")
    system.start("web")

    assert f'href="http://flower.example/task/{things["order"]}"' in page.body
    assert 'href="http://flower.example/"' in page.body
