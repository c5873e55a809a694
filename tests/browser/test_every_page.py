"""What holds for every page, and that the watchers of these tests see what they are there to see."""

import pytest

from shop.web.content_policy import CONTENT_SECURITY_POLICY
from tests.browser.chromium import Visitor
from tests.browser.conftest import Opening

PAGES = ("/static/nothing-here", "/admin/login/")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_keeps_to_the_policy_and_has_no_barrier(opened: Opening, path: str, scheme: str) -> None:
    visitor = opened(color_scheme=scheme)

    answer = visitor.page.goto(path)

    assert answer is not None
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["cache-control"]
    assert visitor.barriers() == []
    if answer.status == 404:
        visitor.forgive("404")


def test_the_first_tab_leads_past_the_navigation(visitor: Visitor) -> None:
    visitor.page.goto("/static/nothing-here")

    visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.press("Enter")

    assert visitor.page.evaluate("document.activeElement.id") == "content"
    visitor.forgive("404")


def test_a_style_written_into_a_page_is_refused_and_noticed(visitor: Visitor) -> None:
    visitor.page.goto("/admin/login/")

    visitor.page.evaluate("document.body.setAttribute('style', 'color: red')")

    visitor.page.wait_for_function("getComputedStyle(document.body).color !== 'rgb(255, 0, 0)'")
    visitor.forgive("Content Security Policy")


def test_a_field_without_a_name_is_noticed(visitor: Visitor) -> None:
    visitor.page.goto("/admin/login/")

    visitor.page.evaluate("document.querySelectorAll('label').forEach(label => label.remove())")

    assert [barrier for barrier in visitor.barriers() if barrier.startswith("label:")]


def test_a_request_that_fails_is_noticed(visitor: Visitor) -> None:
    visitor.page.goto("/admin/login/")
    visitor.page.route("**/healthz", lambda route: route.abort("connectionreset"))

    # The browser tells of it twice, one after the other.
    with visitor.context.expect_event("requestfailed"), visitor.context.expect_console_message():
        visitor.page.evaluate("fetch('/healthz').catch(() => null)")

    assert len(visitor.faults) == 2
    visitor.forgive("ERR_CONNECTION_RESET")
