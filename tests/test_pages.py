"""The pages that Django serves, without a browser: what their answers say to caches, and the admin for staff."""

import gzip
import http.cookiejar
import os
import re
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connection

from shop.pages.static_files import StaticFiles
from shop.web.content_coding import accepts_gzip
from shop.web.content_policy import CONTENT_SECURITY_POLICY
from shop.web.documentation import WHEEL
from tests.builders import a_sku
from tests.raw_http import Reply, exchange, head
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


def reply_to(system: System, method: str, path: str, **headers: str) -> Reply:
    """The answer to a request with these headers, as it came."""
    fields = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return exchange(system, head(system, f"{method} {path} HTTP/1.1", *fields))


#: What a client may send as Accept-Encoding, and whether it takes gzip at least as gladly as a plain answer.
CODINGS = {
    "": False,
    "gzip": True,
    "GZIP": True,
    "x-gzip": True,
    "*": True,
    "deflate, gzip;q=1.0, *;q=0.5": True,
    "br;q=1, gzip ; q=0.001": True,
    "identity;q=0, gzip;q=0.5": True,
    "gzip;q=0": False,
    "gzip;q=0.000": False,
    "gzip; q=0, *": False,
    "*;q=0": False,
    "identity, *;q=0": False,
    "identity;q=1, gzip;q=0.5": False,
    "gzip;q=nonsense": False,
    "gzip;q=2": False,
    "gzip;q=-1": False,
    "no-gzip, gzip-no": False,
    "deflate": False,
    "gzip" + "," * 256: False,
}


@pytest.mark.parametrize(("accepted", "is_packed"), CODINGS.items())
def test_an_answer_is_packed_for_those_who_take_it_so(accepted: str, is_packed: bool) -> None:
    assert accepts_gzip(accepted) == is_packed


@pytest.mark.parametrize(
    "path", ["/", "/admin/login/", "/api/docs", "/api/problems/not-found", "/static/reserva.css"]
)
def test_no_page_comes_packed_to_a_client_that_refuses_that(system: System, path: str) -> None:
    packed, plain = (reply_to(system, "GET", path, Accept_Encoding=each) for each in ("gzip", "gzip;q=0, *"))

    assert (packed.status, packed.headers["content-encoding"]) == (200, "gzip")
    assert (plain.status, plain.headers.get("content-encoding")) == (200, None)
    assert b"\x1f\x8b" in packed.body
    assert b"\x1f\x8b" not in plain.body
    assert "Accept-Encoding" in packed.headers["vary"]
    assert plain.headers["vary"] == packed.headers["vary"]


def test_the_client_for_pip_is_never_packed_again(system: System) -> None:
    wheel = reply_to(system, "GET", f"/api/{WHEEL}", Accept_Encoding="gzip")

    assert (wheel.status, wheel.headers.get("content-encoding"), wheel.body[:2]) == (200, None, b"PK")


SHEET = "/static/reserva.css"
CONTENT = Path("shop/static/reserva.css").read_bytes()
SIZE = len(CONTENT)
#: A range that is asked for, and what is sent: a part of the file, all of it (None), or nothing ("").
RANGES: dict[str, tuple[int, int] | str | None] = {
    "bytes=0-0": (0, 1),
    "bytes=10-19": (10, 20),
    "BYTES= 10-19 ": (10, 20),
    "bytes=10-": (10, SIZE),
    f"bytes=10-{SIZE * 10**9}": (10, SIZE),
    "bytes=-5": (SIZE - 5, SIZE),
    f"bytes=-{SIZE + 1}": (0, SIZE),
    f"bytes={SIZE - 1}-": (SIZE - 1, SIZE),
    "bytes=-0": "",
    f"bytes={SIZE}-": "",
    f"bytes={SIZE}-{SIZE + 5}": "",
    "bytes=0-1,5-6": None,
    "bytes=5-2": None,
    "bytes=-": None,
    "bytes=--1": None,
    "bytes=a-b": None,
    "bytes=1": None,
    "bytes=" + "9" * 5000 + "-": None,
    "lines=1-2": None,
    "bytes": None,
}


@pytest.mark.parametrize("asked", RANGES)
def test_of_a_file_that_part_is_sent_which_is_asked_for(system: System, asked: str) -> None:
    reply = reply_to(system, "GET", SHEET, Range=asked, Accept_Encoding="gzip")

    match RANGES[asked]:
        case None:
            assert (reply.status, reply.body, reply.headers.get("content-range")) == (200, CONTENT, None)
        case "":
            assert (reply.status, reply.body, reply.headers["content-range"]) == (416, b"", f"bytes */{SIZE}")
        case int(start), int(end):
            assert (reply.status, reply.body) == (206, CONTENT[start:end])
            assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
            assert "content-encoding" not in reply.headers


def test_a_part_is_sent_only_of_the_file_of_which_the_client_has_one(system: System) -> None:
    whole = reply_to(system, "GET", SHEET).headers
    conditions = {
        whole["etag"]: 206,
        whole["last-modified"]: 206,
        '"other"': 200,
        f"W/{whole['etag']}": 200,
        "Thu, 01 Jan 1970 00:00:00 GMT": 200,
        "Fri, 01 Jan 2100 00:00:00 GMT": 200,
        "nonsense": 200,
    }

    told = {each: reply_to(system, "GET", SHEET, Range="bytes=10-19", If_Range=each) for each in conditions}

    assert {each: reply.status for each, reply in told.items()} == conditions
    assert {reply.body for reply in told.values()} == {CONTENT, CONTENT[10:20]}


def test_the_head_of_a_file_is_that_of_the_whole_file(system: System) -> None:
    reply = reply_to(system, "HEAD", SHEET, Range="bytes=10-19")

    assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", str(SIZE))


def test_a_file_is_not_sent_again_to_a_client_that_has_it(system: System) -> None:
    whole, packed = (reply_to(system, "GET", SHEET, Accept_Encoding=each) for each in ("", "gzip"))
    had = [whole.headers["etag"], packed.headers["etag"], f'"x", {whole.headers["etag"]}', "*"]

    replies = [reply_to(system, "GET", SHEET, If_None_Match=each) for each in [*had, '"other"']]

    assert packed.headers["etag"] == f"W/{whole.headers['etag']}"
    assert [reply.status for reply in replies] == [304, 304, 304, 304, 200]
    assert reply_to(system, "GET", SHEET, If_Modified_Since=whole.headers["last-modified"]).status == 304
    assert reply_to(system, "POST", SHEET).status == 405


def test_files_of_two_contents_never_share_a_name(tmp_path: Path) -> None:
    one, other = tmp_path / "one.css", tmp_path / "other.css"
    for path, text in ((one, "a"), (other, "b")):
        path.write_text(text)
        os.utime(path, (0, 0))
    files = StaticFiles(lambda _: None)  # type: ignore[arg-type]

    for path in (one, other):
        files.add_file_to_dictionary(f"/static/{path.name}", str(path))

    tags = {found.etag for url, found in files.files.items() if url.endswith(("/one.css", "/other.css"))}
    assert len(tags) == 2


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
