"""The pages that Django serves, without a browser: what their answers say to caches, and the admin for staff."""

import gzip
import http.cookiejar
import re
import urllib.parse
import urllib.request
import uuid

from django.contrib.auth.models import User
from django.db import connection

from shop.pages.policy import CONTENT_SECURITY_POLICY
from tests.builders import a_sku
from tests.running import System
from tests.staff import Staff, a_user
from workers.embedded import PostgresServer


def test_pages_say_who_asked_and_are_kept_by_no_cache(system: System) -> None:
    page = system.get("/")

    assert page.status == 200
    assert page.headers["X-Request-ID"]
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY


def test_style_sheets_arrive_compressed_and_are_kept_for_ever(system: System) -> None:
    sheet = re.search(r'href="(/static/[0-9a-f]{12}/reserva\.css)"', system.get("/static/nothing-here").body)
    assert sheet is not None

    kept = system.get(sheet.group(1))
    of_another_release = system.get("/static/0123456789ab/reserva.css")
    asking = urllib.request.Request(system.url + sheet.group(1), headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(asking, timeout=20) as answer:
        packed, encoding = answer.read(), answer.headers["Content-Encoding"]

    assert kept.headers["Cache-Control"] == "max-age=315360000, public, immutable"
    assert of_another_release.body == kept.body
    assert of_another_release.headers["Cache-Control"] == "max-age=60, public"
    assert encoding == "gzip"
    assert gzip.decompress(packed).decode() == kept.body
    assert len(packed) < len(kept.body) / 3


def test_staff_sees_orders_products_and_movements_and_can_edit_none(system: System) -> None:
    sku = a_sku(stock=5)
    order = system.end_of(system.place((sku, 2)).body["id"]).body
    name = f"staff-{uuid.uuid4().hex[:6]}"
    User.objects.create_superuser(name, password="a long enough one")
    cookies = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))

    def get(path: str) -> str:
        with browser.open(system.url + path, timeout=20) as response:
            return str(response.read().decode())

    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', get("/admin/login/"))
    assert token is not None
    form = {"username": name, "password": "a long enough one", "csrfmiddlewaretoken": token.group(1)}
    login = urllib.request.Request(
        f"{system.url}/admin/login/?next=/admin/",
        urllib.parse.urlencode(form).encode(),
        {"Referer": system.url},
    )
    with browser.open(login, timeout=20) as response:
        assert response.url.endswith("/admin/")

    assert order["id"] in get(f"/admin/shop/order/?q={order['id']}")
    assert f"-2 {sku}" in get(f"/admin/shop/order/{order['id']}/change/")
    assert sku in get(f"/admin/shop/product/?q={urllib.parse.quote(sku)}")
    assert "-2" in get(f"/admin/shop/stockmovement/?q={urllib.parse.quote(sku)}")
    assert "Save" not in get(f"/admin/shop/order/{order['id']}/change/")


def test_staff_hears_that_a_store_is_away_and_the_pages_come_back_with_it(
    system: System, postgres_server: PostgresServer
) -> None:
    staff = Staff(system.url, a_user())
    paths = ["/live", "/admin/", "/admin/shop/order/"]

    postgres_server.stop()
    try:
        meanwhile = [staff.get(path) for path in paths]
    finally:
        postgres_server.start()
        connection.close()  # this test's own, which broke with the server
    afterwards = [staff.get(path) for path in paths]

    assert [page.status for page in meanwhile] == [503] * 3
    assert all("The database does not answer" in page.body for page in meanwhile)
    assert [page.status for page in afterwards] == [200] * 3
