"""How long staff waits for each page of the admin with a million orders: `python -m tests.benchmarks.admin_pages`."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.benchmarks import traffic
from tests.benchmarks.growth import FILL_BATCH
from tests.benchmarks.reserva import Reserva
from tests.staff import Staff

TIMES: Final = 7
PAGE_MS: Final = 100.0

#: Orders one a second, of three SKUs each. One in ten is rejected, very few failed; one customer in four orders is the
#: same, one had all its orders long ago, the others have fifty or so; SKU 0 is in every order.
FILL: Final = """
WITH made AS (
    INSERT INTO shop_order (id, client, status, customer, reference, fingerprint, accepted_at, updated_at)
    SELECT md5('stored' || n)::uuid, 'stored',
           CASE WHEN n %% 100000 = 7 THEN 'failed' WHEN n %% 10 = 0 THEN 'rejected' ELSE 'confirmed' END,
           CASE WHEN n %% 4 = 1 THEN 'everybody' WHEN n < 20000 THEN 'of old' ELSE 'c-' || (n::bigint * 7919 %% 15000) END,
           'PO-' || n, md5(n::text),
           now() - (%(all)s - n) * interval '1 second', now() - (%(all)s - n) * interval '1 second'
    FROM generate_series(%(first)s::int, %(last)s::int) AS n
    RETURNING id, status, fingerprint, accepted_at
), taken AS (
    INSERT INTO shop_orderidentity (id, fingerprint, accepted_at) SELECT id, fingerprint, accepted_at FROM made
), line AS (
    INSERT INTO shop_orderline (order_id, position, sku, quantity)
    SELECT md5('stored' || n)::uuid, p, 'sku-' || lpad(((p * (n * 617 + p * 331)) %% 1000)::text, 6, '0'), 1
    FROM generate_series(%(first)s::int, %(last)s::int) AS n, generate_series(0, 2) AS p
    RETURNING order_id, sku, quantity
)
INSERT INTO shop_stockmovement (sku, kind, delta, order_id, client, created_at)
SELECT sku, 'sale', -quantity, order_id, 'stored', accepted_at
FROM line JOIN made ON made.id = line.order_id WHERE status = 'confirmed' ORDER BY accepted_at
"""

PAGES: Final = {
    "orders": "/admin/shop/order/",
    "orders, confirmed": "/admin/shop/order/?status=confirmed",
    "orders, rejected": "/admin/shop/order/?status=rejected",
    "orders, failed": "/admin/shop/order/?status=failed",
    "orders, cancelled (none)": "/admin/shop/order/?status=cancelled",
    "orders, half way down": "/admin/shop/order/?p={middle}",
    "orders, the last page": "/admin/shop/order/?p={last}",
    "orders of a customer": "/admin/shop/order/?q=c-4711",
    "orders of a customer with a quarter of all": "/admin/shop/order/?q=everybody",
    "orders of a customer of long ago": "/admin/shop/order/?q=of old",
    "rejected orders of a customer": "/admin/shop/order/?q=c-4711&status=rejected",
    "an order by its reference": "/admin/shop/order/?q=PO-123456",
    "orders of a SKU": "/admin/shop/order/?q=sku-000777",
    "orders of the SKU that is in all": "/admin/shop/order/?q=sku-000000",
    "orders of what there is not": "/admin/shop/order/?q=nothing",
    "an order's life": "/admin/shop/order/{order}/change/",
    "orders that wait": "/admin/shop/order/waiting/",
    "products": "/admin/shop/product/",
    "products by a part of the name": "/admin/shop/product/?q=99999",
    "products, the last page": "/admin/shop/product/?p=sku-099990",
    "a product": "/admin/shop/product/sku-000000/change/",
    "ledger": "/admin/shop/stockmovement/",
    "ledger, half way down": "/admin/shop/stockmovement/?p=1500000",
    "ledger of a SKU": "/admin/shop/stockmovement/?q=sku-000777",
    "ledger, adjustments": "/admin/shop/stockmovement/?kind__exact=adjustment",
    "ledger, openings": "/admin/shop/stockmovement/?kind__exact=opening",
    "API keys": "/admin/shop/apikey/",
    "what staff did": "/admin/admin/logentry/",
}


def fill(system: Reserva, orders: int) -> None:
    """Have PostgreSQL hold so many orders, as autovacuum would have left them."""
    for first in range(1, orders + 1, FILL_BATCH):
        last = min(orders, first + FILL_BATCH - 1)
        system.database.execute(FILL, {"first": first, "last": last, "all": orders})
    system.database.execute(
        "VACUUM (ANALYZE) shop_order, shop_orderidentity, shop_orderline, shop_stockmovement, shop_product"
    )
    system.database.execute("CHECKPOINT")


def place_of(system: Reserva, offset: int) -> str:
    """The address of the page that begins after so many orders."""
    row = system.database.execute(
        "SELECT accepted_at, id FROM shop_order ORDER BY accepted_at DESC, id DESC OFFSET %s LIMIT 1",
        [offset],
    ).fetchone()
    assert row is not None
    return quote(f"{row[0].isoformat()}~{row[1]}")


def main() -> None:
    """Measure, tell, and fail where a page takes too long."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--orders", type=int, default=1_000_000)
    options.add_argument("--skus", type=int, default=100_000)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        system = Reserva(Path(folder))
        try:
            system.start()
            system.put_on_sale(traffic.on_sale(asked.skus))
            fill(system, asked.orders)
            slow = measured(system, asked.orders)
        finally:
            system.stop()
    raise SystemExit(f"slower than {PAGE_MS:g} ms: {', '.join(slow)}" if slow else 0)


def measured(system: Reserva, orders: int) -> list[str]:
    """Ask for each page some times, and say how long it took; the names of those that took too long."""
    status = system.status()
    staff = Staff(status["web_url"], status["staff_user"], status["staff_password"])
    (order,) = system.database.execute("SELECT md5('stored123457')::uuid").fetchone() or ("",)
    places = {"order": order, "middle": place_of(system, orders // 2), "last": place_of(system, orders - 20)}
    slow = []
    for name, path in PAGES.items():
        took_ms = [_ms(staff, path.format(**places).replace(" ", "+")) for _ in range(TIMES)]
        typical = statistics.median(took_ms)
        print(f"{name:45} {typical:6.1f} ms, the first time {took_ms[0]:6.1f} ms", flush=True)
        if typical > PAGE_MS:
            slow.append(name)
    return slow


def _ms(staff: Staff, path: str) -> float:
    began = time.perf_counter()
    shown = staff.get(path)
    took_s = time.perf_counter() - began
    assert shown.status == 200, (path, shown)
    return took_s * 1000


if __name__ == "__main__":
    main()
