"""The part of a file that a request asks for (RFC 9110, 13.1.5 and 14)."""

import re
from typing import Final

from django.http import HttpRequest, HttpResponse

#: One range alone: of several, the whole is answered, as section 14.2 allows.
_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,20})-([0-9]{0,20})[ \t]*", re.IGNORECASE)


def asked_part(request: HttpRequest, whole: HttpResponse) -> HttpResponse:
    """The answer to a request for a part, made of the answer with the whole: that itself where it asks for none.

    The whole has `ETag` and `Last-Modified`.
    """
    found = _RANGE.fullmatch(request.headers.get("Range", ""))
    if whole.status_code != 200 or found is None or not _is_of_this(request, whole):
        return whole
    size = len(whole.content)
    match found.groups():
        case "", "":
            return whole
        case "", last:
            start, end = max(0, size - int(last)), size
        case first, last:
            start, end = int(first), min(int(last or size) + 1, size)
            if last and int(last) < int(first):
                return whole
    return _part(whole, start, end)


def _is_of_this(request: HttpRequest, whole: HttpResponse) -> bool:
    """Whether a client that has a part already has it of this very file (section 13.1.5)."""
    condition = request.headers.get("If-Range")
    return condition is None or condition.strip() in {whole.headers["ETag"], whole.headers["Last-Modified"]}


def _part(whole: HttpResponse, start: int, end: int) -> HttpResponse:
    size = len(whole.content)
    if start >= end:
        return HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}"})
    whole.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    whole.content, whole.status_code = whole.content[start:end], 206
    return whole
