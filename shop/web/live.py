"""The figures of the live board, asked for by each board once a second: made once for all of them (`shop.board`)."""

import asyncio
from collections.abc import Sequence

from shop.board import Shown, board
from shop.round_trips import RoundTrips
from shop.web.http import Answer, Request
from shop.web.problems import require_method
from shop.web.staff import require_staff


async def figures(request: Request) -> Answer:
    """`GET /live/figures`, `?recent` for a board that has the rest: staff alone."""
    require_method(request.method, "GET", "HEAD")
    await require_staff(request)
    shown = board.fresh() or await _looks.ask(None)
    headers = {"ETag": shown.tag, "Cache-Control": "private, no-cache", "Vary": "Cookie"}
    if request.header(b"if-none-match") == shown.tag:
        return Answer(status_code=304, headers=headers)
    return Answer(shown.recent if request.asks("recent") else shown.whole, headers=headers)


async def _look(asked: Sequence[None]) -> list[Shown]:
    return [await asyncio.to_thread(board.shown)] * len(asked)


_looks = RoundTrips(_look, most=10_000)
