"""The answer to a browser for which there is no place now: a page that asks again, made without Django's handler.

It must cost next to nothing, because many get it at once. What a form has sent is offered again, under its key.
"""

import json
import random
from functools import cache
from html import escape
from typing import Final

from django.core.exceptions import TooManyFieldsSent
from django.http import QueryDict
from django.template.loader import render_to_string

from shop.web.content_policy import CONTENT_SECURITY_POLICY
from shop.web.http import Answer, Request

#: When a browser asks again, in seconds. Were it the same for all, the crowd would come back as one.
_AGAIN_S: Final = (2, 5)
#: A larger form is none of the shop's.
_FORM_BYTES_MAX: Final = 8_192
_FORM: Final = b"application/x-www-form-urlencoded"
_FIELDS: Final = "<!-- fields -->"


def crowded(request: Request) -> Answer:
    """503 with when to ask again: as a page, or as JSON for the storefront's script."""
    wait_s = random.randint(*_AGAIN_S)
    headers = {"Retry-After": str(wait_s), "Cache-Control": "no-store"}
    if request.header(b"accept") == "application/json":
        return Answer(json.dumps({"wait_s": wait_s, "is_paused": False}).encode(), 503, headers=headers)
    headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    if request.method in {"GET", "HEAD"}:
        headers["Refresh"] = str(wait_s)
        page = _page(is_form=False)
    else:
        page = _page(is_form=True).replace(_FIELDS, _fields_again(request))
    return Answer(page.encode(), 503, headers=headers, content_type="text/html; charset=utf-8")


@cache
def _page(*, is_form: bool) -> str:
    return render_to_string("storefront/crowded.html", {"is_form": is_form})


def _fields_again(request: Request) -> str:
    """The form as it was sent, its token included, which is worth nothing where it was forged."""
    is_form = request.header(b"content-type").encode().startswith(_FORM)
    if not is_form or len(request.body) > _FORM_BYTES_MAX:
        return ""
    try:
        fields = QueryDict(request.body)
    except TooManyFieldsSent:
        return ""
    return "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, values in fields.lists()
        if name != "password"
        for value in values
    )
