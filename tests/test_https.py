"""A shop that is open over TLS alone, without the proxy that takes TLS off: what comes in clear, or under another name."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.builders import a_sku, wait_until
from tests.raw_http import Reply, exchange
from tests.running import System
from tests.test_error_reports import a_sentry

HOST = "shop.example.com"
ENV = {"HTTPS": "true", "ALLOWED_HOSTS": HOST}

#: What a proxy may say in X-Forwarded-Proto, and whether that means TLS. Several proxies may have added to it.
TOLD = {
    "https": True,
    " https ": True,
    "https, http": True,
    "http": False,
    "HTTPS": False,
    "http, https": False,
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The web tier alone, told what it is told in production."""
    with System(tmp_path_factory.mktemp("https"), ENV) as running:
        yield running.start("web")


def sent(shop: System, method: str, path: str, *fields: str, host: str = HOST, body: bytes = b"") -> Reply:
    """The answer to a request under this name."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *fields]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return exchange(shop, "\r\n".join([*lines, "", ""]).encode() + body)


def order(shop: System, *fields: str) -> Reply:
    """Place an order."""
    body = json.dumps({"items": [{"sku": a_sku(), "quantity": 1}]}).encode()
    ours = [f"Authorization: Bearer {shop.api_key}", f"Idempotency-Key: {uuid.uuid4().hex}"]
    return sent(shop, "POST", "/api/v1/orders", "Content-Type: application/json", *ours, *fields, body=body)


def lines(shop: System, word: str) -> list[dict[str, Any]]:
    """The lines of the log in which a word stands."""
    return [json.loads(line) for line in shop.log("web").splitlines() if word in line and line[0] == "{"]


@pytest.mark.parametrize("told", TOLD)
def test_an_order_in_clear_is_refused_where_a_page_would_be_redirected(shop: System, told: str) -> None:
    field = f"X-Forwarded-Proto: {told}"

    answer, page = order(shop, field), sent(shop, "GET", "/basket", field)

    if TOLD[told]:
        assert (answer.status, page.status) == (202, 200)
    else:
        assert (answer.status, answer.problem, page.status) == (403, "https-required", 301)
        assert "location" not in answer.headers


@pytest.mark.parametrize(
    "path",
    ["/api/v1/products", "/api/docs", "/api/openapi.json", "/watch/stock?sku=x", "/live/figures", "/nothing"],
)
def test_nothing_of_the_api_is_answered_in_clear(shop: System, path: str) -> None:
    answer = sent(shop, "GET", path, f"Authorization: Bearer {shop.api_key}")

    assert (answer.status, answer.problem) == (403, "https-required")
    assert answer.headers["x-request-id"]


def test_what_monitoring_asks_is_answered_in_clear(shop: System) -> None:
    asked = {path: sent(shop, "GET", path) for path in ("/healthz", "/readyz", "/metrics")}

    assert (asked["/healthz"].status, asked["/metrics"].status) == (200, 200)
    assert asked["/readyz"].problem == "unavailable"  # for want of a worker


def test_without_the_refusal_an_order_in_clear_would_be_taken(shop: System) -> None:
    shop.stop("web")
    shop.start("web", SECURE_SSL_REDIRECT="false")
    try:
        answer, page = order(shop), sent(shop, "GET", "/basket")
    finally:
        shop.stop("web")
        shop.start("web")

    assert (answer.status, page.status) == (202, 200)


@pytest.mark.parametrize("name", ["evil.example", "e" * 50_000, "a b", ""])
@pytest.mark.parametrize("field", ["X-Forwarded-Proto: https", "X-Forwarded-Proto: http"])
def test_a_page_under_another_name_costs_a_line_of_the_log_at_most(
    shop: System, name: str, field: str
) -> None:
    before, written = len(lines(shop, "Invalid HTTP_HOST header")), len(shop.log("web"))

    answer = sent(shop, "GET", "/basket", field, host=name)

    told = lines(shop, "Invalid HTTP_HOST header")[before:]
    assert answer.status == 400
    assert len(shop.log("web")) - written < 1_000
    assert len(told) <= 1
    assert {(line["level"], "exception" in line) for line in told} <= {("warning", False)}


def test_another_name_is_logged(shop: System) -> None:
    sent(shop, "GET", "/basket", "X-Forwarded-Proto: https", host="another.example")

    assert len(lines(shop, "another.example")) == 1


def test_a_sign_in_that_would_lead_to_another_site_leads_to_the_admin(shop: System) -> None:
    from tests.staff import PASSWORD, a_user

    https, path = "X-Forwarded-Proto: https", "/admin/login/?next=https://evil.example/"
    form = sent(shop, "GET", path, https)
    token = form.headers["set-cookie"].partition("csrftoken=")[2].partition(";")[0]
    body = f"csrfmiddlewaretoken={token}&username={a_user()}&password={PASSWORD}&next=https://evil.example/"

    answer = sent(
        shop,
        "POST",
        path,
        https,
        f"Cookie: csrftoken={token}",
        f"Referer: https://{HOST}{path}",
        "Content-Type: application/x-www-form-urlencoded",
        body=body.replace(" ", "+").encode(),
    )

    assert (answer.status, answer.headers["location"]) == (302, "/admin/")


REPORTED = """
import logging, sys
import django
django.setup()
logging.getLogger("django.security.DisallowedHost").error("a client's", exc_info=ValueError("x"))
logging.getLogger("django.request").warning("a client's", extra={"status_code": 403}, exc_info=ValueError("x"))
logging.getLogger("django.request").error("ours", extra={"status_code": 500}, exc_info=ValueError("x"))
import sentry_sdk
sentry_sdk.flush(10)
"""


def test_the_faults_of_clients_are_not_reported_as_errors() -> None:
    with a_sentry() as (dsn, events):
        env = os.environ | {"SENTRY_DSN": dsn, "no_proxy": "*"}
        done = subprocess.run(
            [sys.executable, "-c", REPORTED], env=env, capture_output=True, text=True, timeout=60, check=True
        )
        wait_until(lambda: events, what="the report of our own error")

    told = [json.loads(line) for line in done.stderr.splitlines() if line[0] == "{"]
    assert [event["logentry"]["message"] for event in events] == ["ours"]
    assert [(line["level"], "exception" in line) for line in told] == [
        ("warning", False),
        ("warning", False),
        ("error", True),
    ]
