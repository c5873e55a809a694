"""The ledger of stock movements."""

import uuid
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from shop.admin.listing import OperatorAdmin
from shop.models import StockMovement


@admin.register(StockMovement)
class StockMovementAdmin(OperatorAdmin):
    """Every change of stock, the newest first; it only grows."""

    list_display = ("id", "created_at", "sku", "kind", "delta", "order", "client", "reason")
    list_display_links = None
    list_filter = ("kind",)
    ordering = ("-id",)
    search_help_text = "A SKU, exactly; or an order's id, which leads to the order and its movements."

    def rows(self, queryset: QuerySet[Any], term: str, limit: int) -> list[Any]:
        """Those of a SKU, if one is searched for."""
        return list((queryset.filter(sku=term) if term else queryset)[:limit])

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """The ledger has no index by order: an order's movements stand with the order."""
        try:
            order_id = uuid.UUID(request.GET.get("q", "").strip())
        except ValueError:
            return super().changelist_view(request, extra_context)
        return HttpResponseRedirect(reverse("admin:shop_order_life", args=(order_id,)))

    @admin.display(description="order")
    def order(self, movement: StockMovement) -> SafeString | str:
        """The order that was sold or cancelled."""
        if movement.order_id is None:
            return ""
        address = reverse("admin:shop_order_life", args=(movement.order_id,))
        return format_html('<a href="{}">{}</a>', address, movement.order_id)
