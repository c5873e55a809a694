"""The API reference and the pages about problems in a browser: in light and dark, on a desk and on a phone."""

from typing import Any

import pytest

from tests.browser.chromium import DESKTOP, PHONE
from tests.browser.conftest import Opening

PAGES = ("/api/docs", "/api/problems/idempotency-key-reused", "/api/problems/invalid-order")


@pytest.mark.parametrize("window", [DESKTOP, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_for_developers_has_no_barrier_and_no_fault(
    opened: Opening, path: str, scheme: str, window: dict[str, Any]
) -> None:
    visitor = opened(color_scheme=scheme, **window)

    answer = visitor.page.goto(path)

    assert answer is not None
    assert "script-src" not in answer.headers["content-security-policy"]
    assert visitor.barriers() == []
    width = visitor.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0, "the page itself scrolls sideways"


def test_a_problem_is_found_from_the_catalogue_and_leads_back_to_its_operations(opened: Opening) -> None:
    visitor = opened(java_script_enabled=False)
    visitor.page.goto("/api/docs#errors")

    visitor.page.get_by_role("table", name="").get_by_role("link", name="idempotency-key-reused").click()
    assert visitor.page.get_by_role("heading", level=1).inner_text() == "Idempotency key reused"
    visitor.page.get_by_role("link", name="Place an order").click()

    assert visitor.page.url.endswith("/api/docs#placeOrder")
