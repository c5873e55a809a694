"""Orders: those that have ended, those that wait, and the life of each."""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from shop import life, pauses, sweeper
from shop.admin.listing import PAGE, OperatorAdmin
from shop.cancellation import Cancellation, request_cancel
from shop.domain import Status
from shop.life import Event, Life
from shop.models import ORDER_TEXTS, Order, StockMovement, with_ids
from shop.stores import StoreUnavailable, web_thread_redis

#: So many of the newest orders are looked through for a customer.
NEWEST = 1_000
#: A SKU's orders are found by its sales; further back leads the ledger.
SALES_LOOKED_AT = 500

_CANCELLED = {
    Cancellation.REQUESTED: (messages.SUCCESS, "The order is to be cancelled; a worker sees to it."),
    Cancellation.CANCELLED: (messages.INFO, "The order had been cancelled before; nothing was changed."),
    Cancellation.REFUSED: (messages.ERROR, "The order was rejected or failed: there is nothing to cancel."),
    Cancellation.UNKNOWN: (messages.ERROR, "Neither PostgreSQL nor Redis knows this order any more."),
}


class HowItEnded(admin.SimpleListFilter):
    """The ends that an order may have: those that wait have a page of their own."""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """All ends."""
        return [(status.value, status.value) for status in Status if status is not Status.QUEUED]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Orders that ended so."""
        return queryset.filter(status=self.value()) if self.value() else queryset


@admin.register(Order)
class OrderAdmin(OperatorAdmin):
    """Orders that have ended, the newest first; each order, ended or not, by its id."""

    list_display = ("id", "status", "client", "customer", "reference", "accepted_at", "updated_at")
    list_filter = (HowItEnded,)
    ordering = ("-accepted_at", "-id")
    search_help_text = (
        "An order's id, also of one that waits; or exactly a customer, a reference, or a SKU that was sold."
    )

    def get_urls(self) -> list[URLPattern]:
        """Pages of our own before Django's, which take any text for an id."""
        view = self.admin_site.admin_view
        return [
            path("waiting/", view(self.waiting_view), name="shop_order_waiting"),
            path("<uuid:order_id>/change/", view(self.order_view), name="shop_order_life"),
            path("<uuid:order_id>/cancel/", view(self.cancel_view), name="shop_order_cancel"),
            path("<uuid:order_id>/enqueue/", view(self.enqueue_view), name="shop_order_enqueue"),
            *super().get_urls(),
        ]

    def rows(self, queryset: QuerySet[Any], term: str, limit: int) -> list[Any]:
        """The orders of a customer, of a reference and of a SKU, of whichever there are, if one is searched for."""
        if not term:
            return list(queryset[:limit])
        found = {order.pk: order for order in [*_called(queryset, term, limit), *_of_sku(queryset, term)]}
        return sorted(found.values(), key=lambda order: (order.accepted_at, order.pk), reverse=True)[:limit]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """The list; whoever searches for an id is led to that order."""
        term = request.GET.get("q", "").strip()
        order_id = _order_id(term) if self.has_view_permission(request) else None
        if order_id and life.of(str(order_id), web_thread_redis()):
            return HttpResponseRedirect(self.address_of("life", order_id))
        return super().changelist_view(request, extra_context)

    def waiting_view(self, request: HttpRequest) -> HttpResponse:
        """Orders without an end: Redis has them alone."""
        self.insist_on(request, "view_order")
        context = {**self.admin_site.each_context(request), "opts": self.opts, "title": "Orders that wait"}
        try:
            context["count"], context["waiting"] = life.waiting(web_thread_redis(), PAGE)
            context["is_paused"] = pauses.is_paused(web_thread_redis(), pauses.Part.FULFILMENT)
        except StoreUnavailable as away:
            context["away"] = str(away)
        return TemplateResponse(request, "admin/shop/order/waiting.html", context)

    def order_view(self, request: HttpRequest, order_id: uuid.UUID) -> HttpResponse:
        """Everything that is known of an order, and what may be done with it. Nothing of it can be edited."""
        self.insist_on(request, "view_order")
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        found = life.of(str(order_id), web_thread_redis())
        if found is None:
            text = f"Neither PostgreSQL nor Redis knows an order {order_id}."
            return self.back_to(self.address_of("changelist"), request, text, messages.WARNING)
        return TemplateResponse(request, "admin/shop/order/life.html", self._context(request, found))

    def _context(self, request: HttpRequest, found: Life) -> dict[str, Any]:
        may_change = self.may(request, "change_order")
        flower = f"{settings.FLOWER_URL}/task/{found.id}" if settings.FLOWER_URL else ""
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Order {found.id}",
            "life": found,
            "events": life.in_order_of_time([*found.events, *_by_staff(found)]),
            "may_cancel": may_change and found.may_be_cancelled,
            "may_enqueue": may_change and found.is_open,
            "task_url": flower,
        }

    def cancel_view(self, request: HttpRequest, order_id: uuid.UUID) -> HttpResponse:
        """GET asks whether the order is meant, POST asks for its cancellation, as its client may."""
        self.insist_on(request, "change_order")
        there = self.address_of("life", order_id)
        found = life.of(str(order_id), web_thread_redis())
        if found is None:
            return HttpResponseRedirect(there)
        if request.method != "POST":
            if not found.may_be_cancelled:
                return self.back_to(there, request, f"The order is {found.status}.", messages.INFO)
            context = {**self._context(request, found), "title": "Cancel this order?"}
            return TemplateResponse(request, "admin/shop/order/cancel.html", context)
        try:
            outcome = async_to_sync(request_cancel)(found.id, found.client)
        except StoreUnavailable as away:
            return self.back_to(there, request, f"Nothing was done, try again: {away}", messages.ERROR)
        if outcome is Cancellation.REQUESTED:
            self.log_change(request, _named(found), "Asked for its cancellation.")
        level, text = _CANCELLED[outcome]
        return self.back_to(there, request, text, level)

    def enqueue_view(self, request: HttpRequest, order_id: uuid.UUID) -> HttpResponse:
        """Put an order without an end in line again now, as the sweeper does after a while. Twice does no harm."""
        self.insist_on(request, "change_order")
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        there = self.address_of("life", order_id)
        try:
            is_queued = sweeper.enqueue_now(web_thread_redis(), str(order_id))
        except StoreUnavailable as away:
            return self.back_to(there, request, f"Nothing was done, try again: {away}", messages.ERROR)
        if not is_queued:
            return self.back_to(there, request, "The order has ended; nothing was done.", messages.INFO)
        self.log_change(request, Order(pk=order_id), "Put in line again.")
        return self.back_to(there, request, "The order is in line again.", messages.SUCCESS)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """What staff did to an order stands in its life."""
        return HttpResponseRedirect(reverse("admin:shop_order_life", args=(object_id,)))


def _called(queryset: QuerySet[Any], term: str, limit: int) -> list[Any]:
    """Orders of a customer or of a reference.

    Who has many of the newest ones is found among them. Everybody else's are few enough to be taken from the index, which
    knows no order of time, and sorted; but PostgreSQL must not see that they could also be met by reading all orders in the
    order of time, which it would try first.
    """
    newest = queryset.values_list("pk", "customer", "reference")[:NEWEST]
    keys = [pk for pk, *texts in newest if term in texts][:limit]
    if len(keys) == limit:
        return list(with_ids(queryset, keys).order_by())
    # The index is of orders that have either, which PostgreSQL does not conclude by itself.
    has_texts = Q(customer__isnull=False) | Q(reference__isnull=False)
    called = queryset.alias(texts=ORDER_TEXTS).filter(has_texts, texts__contains=[term])
    return list(called.order_by((F("accepted_at") + timedelta()).desc(), "-id")[:limit])


def _of_sku(queryset: QuerySet[Any], sku: str) -> list[Any]:
    """Orders that a SKU was sold to lately."""
    sales = StockMovement.objects.filter(sku=sku, kind=StockMovement.Kind.SALE).order_by("-id")
    sold = list(sales.values_list("order_id", flat=True)[:SALES_LOOKED_AT])
    return list(with_ids(queryset, sold).order_by()) if sold else []


def _order_id(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _named(found: Life) -> Order:
    return Order(pk=uuid.UUID(found.id))


def _by_staff(found: Life) -> Sequence[Event]:
    entries = LogEntry.objects.filter(
        content_type=get_content_type_for_model(Order), object_id=found.id
    ).select_related("user")
    return [
        Event(
            at=entry.action_time,
            what="Staff",
            detail=entry.get_change_message(),
            source=entry.user.get_username(),
        )
        for entry in entries
    ]
