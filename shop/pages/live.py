"""The live board for staff: the page itself, and its switches. What moves on it comes from `shop.web.live`."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.admin.views.decorators import staff_member_required
from django.contrib.auth.decorators import permission_required
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from shop import pauses
from shop.board import REFUSED, board
from shop.domain import TEXT_MAX_LENGTH, is_text
from shop.figures import BATCH_ORDERS
from shop.models import PauseChange
from shop.pauses import Part, Pause
from shop.stores import BrokenKey, StoreUnavailable, web_thread_redis

#: Whoever may add changes of pauses in the admin's sense may make them.
MAY_SWITCH = "shop.add_pausechange"
#: Changes of pauses that the page tells.
TOLD = 5

EFFECT = {
    Part.INTAKE: "New orders are refused with 503 and their keys stay unused. What was placed before goes on.",
    Part.FULFILMENT: "Orders are taken in and wait in line. None loses an attempt.",
}
ENDS = {
    "Confirmed": "confirmed:",
    "Rejected, too little stock": "rejected:insufficient_stock",
    "Rejected, unknown SKU": "rejected:unknown_sku",
    "Failed": "failed",
    "Cancelled": "cancelled:",
}


@staff_member_required
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """`GET /live`"""
    try:
        snapshot = board.shown().snapshot
        paused = pauses.current(web_thread_redis())
    except StoreUnavailable as away:
        context = {"is_away": True, "broken": str(away) if isinstance(away, BrokenKey) else ""}
        return render(request, "live.html", context, status=503)
    context = {
        "snapshot": snapshot,
        "paused": list(paused),
        "switches": [_switch(part, paused.get(part)) for part in Part],
        "may_switch": request.user.has_perm(MAY_SWITCH),
        "changes": list(PauseChange.objects.all()[:TOLD]),
        "intake": _places({"Accepted": "accepted", "Sent again, same order": "replayed"}, snapshot.text),
        "refusals": _places({text.capitalize(): word for word, text in REFUSED.items()}, snapshot.text),
        "ends": _places(ENDS, snapshot.text),
        "batches": list(zip(BATCH_ORDERS.bounds, snapshot.batches, strict=True)),
        "longest_reason": TEXT_MAX_LENGTH,
        "flower_url": settings.FLOWER_URL,
    }
    return render(request, "live.html", context)


def _switch(part: Part, pause: Pause | None) -> dict[str, Any]:
    return {"part": part, "name": part.capitalize(), "pause": pause, "effect": EFFECT[part]}


def _places(names: dict[str, str], text: dict[str, str]) -> list[dict[str, str]]:
    """Rows of a table: a name, and the places of its two numbers with what stands there now."""
    return [
        {
            "name": name,
            "minute_place": f"{word}_minute",
            "minute": text[f"{word}_minute"],
            "total_place": f"{word}_total",
            "total": text[f"{word}_total"],
        }
        for name, word in names.items()
    ]


@staff_member_required
@permission_required(MAY_SWITCH, raise_exception=True)
@require_POST
def switch(request: HttpRequest) -> HttpResponse:
    """`POST /live/switch`: pause or resume a part, then show the board again."""
    try:
        part = Part(request.POST.get("part", ""))
    except ValueError:
        raise BadRequest("no such part") from None
    reason, who = request.POST.get("reason", "").strip(), request.user.get_username()
    try:
        if request.POST.get("action") == "resume":
            is_changed = pauses.resume(web_thread_redis(), part, who=who, reason=reason)
            text = f"{part.capitalize()} goes on." if is_changed else f"{part.capitalize()} was not paused."
        elif not reason or not is_text(reason):
            is_changed, text = False, "Say why, in a line: others will read it here."
        else:
            is_changed = pauses.pause(web_thread_redis(), part, who=who, reason=reason)
            text = f"{part.capitalize()} is paused{'' if is_changed else ' already'}."
    except StoreUnavailable:
        is_changed, text = False, "Redis does not answer: nothing was changed."
    messages.add_message(request, messages.SUCCESS if is_changed else messages.WARNING, text)
    return HttpResponseRedirect("/live")
