"""Somebody with a browser that knows no script: cookies, forms, redirects."""

import http.cookiejar
import urllib.error
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from typing import Any

from django.http import HttpResponse

from shop.pages.buyer import COOKIE, Buyer
from tests.running import Answer, System


class Shopper:
    """A buyer. `Answer.headers["url"]` is where the last redirect has led."""

    def __init__(self, system: System) -> None:
        self.url = system.url
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def get(self, path: str) -> Answer:
        """Open a page."""
        return self._send(urllib.request.Request(self.url + path))

    def post(self, path: str, page: Answer, **fields: str) -> Answer:
        """Send fields as a form does: with the token of a page, and the first key on it."""
        hidden = {name: value for form in reversed(_forms(page)) for name, value in form.fields.items()}
        kept = {name: hidden.get(name, "") for name in ("csrfmiddlewaretoken", "key")}
        return self._post(self.url + path, {**kept, **fields})

    def press(self, page: Answer, button: str, **changed: str) -> Answer:
        """Send the first form that has a button of these words, as it stands but for fields that are filled in anew."""
        form = next(form for form in _forms(page) if button in form.buttons)
        address = urllib.parse.urljoin(page.headers["url"], form.buttons[button] or form.action)
        return self._post(address, {**form.fields, **changed})

    def lose(self, page: Answer, button: str, **changed: str) -> None:
        """`press`, but the answer gets lost on its way: the browser hears of nothing, and keeps no cookie of it."""
        before = {cookie.name: cookie.value for cookie in self.cookies}
        self.press(page, button, **changed)
        for cookie in list(self.cookies):
            if cookie.name in before:
                cookie.value = before[cookie.name]
            else:
                self.cookies.clear(cookie.domain, cookie.path, cookie.name)

    @property
    def buyer(self) -> Buyer:
        """Who this is to the shop."""
        cookie = next(cookie for cookie in self.cookies if cookie.name == COOKIE)
        buyer = Buyer.of_cookie(cookie.value or "")
        assert buyer is not None
        return buyer

    @buyer.setter
    def buyer(self, buyer: Buyer) -> None:
        response = HttpResponse()
        buyer.keep(response)
        next(cookie for cookie in self.cookies if cookie.name == COOKIE).value = response.cookies[
            COOKIE
        ].value

    def script(self) -> None:
        """From now on, ask as the storefront's script does."""
        self._opener.addheaders = [("Accept", "application/json")]

    def _post(self, address: str, fields: dict[str, str]) -> Answer:
        return self._send(urllib.request.Request(address, urllib.parse.urlencode(fields).encode()))

    def _send(self, request: urllib.request.Request) -> Answer:
        try:
            with self._opener.open(request, timeout=20) as response:
                return _answer(response)
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error)


def _answer(response: Any) -> Answer:
    response.headers["url"] = response.url
    return Answer(status=response.status, headers=response.headers, body=response.read().decode())


class _Form:
    def __init__(self, action: str) -> None:
        self.action = action
        self.fields: dict[str, str] = {}
        #: By their words: where each sends the form, '' where to its action.
        self.buttons: dict[str, str] = {}


class _FormReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[_Form] = []
        self._button: str | None = None
        self._words = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attributes}
        if tag == "form":
            self.forms.append(_Form(of.get("action", "")))
        elif tag == "input" and "name" in of and self.forms:
            self.forms[-1].fields[of["name"]] = of.get("value", "")
        elif tag == "button":
            self._button, self._words = of.get("formaction", ""), ""

    def handle_data(self, data: str) -> None:
        self._words += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "button" and self._button is not None and self.forms:
            self.forms[-1].buttons[self._words.strip()] = self._button
            self._button = None


def _forms(page: Answer) -> list[_Form]:
    reader = _FormReader()
    reader.feed(page.body)
    return reader.forms
