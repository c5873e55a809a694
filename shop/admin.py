"""What staff may look at. Nothing here changes an order or a counter."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from shop.models import ApiKey, Order, OrderLine, Product, StockMovement


class ReadOnly:
    """Rows that only the system writes."""

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Nobody adds rows by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits rows by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows by hand."""
        return False


@admin.register(Product)
class ProductAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """Products with their counters."""

    list_display = ["sku", "name", "price", "on_sale", "confirmed"]
    search_fields = ["sku", "name"]
    show_full_result_count = False


@admin.register(Order)
class OrderAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """Orders that have ended, the newest first."""

    list_display = ["id", "status", "client", "customer", "reference", "accepted_at"]
    list_filter = ["status"]
    search_fields = ["=id"]
    ordering = ["-accepted_at"]
    readonly_fields = ["lines"]
    show_full_result_count = False

    @admin.display(description="lines")
    def lines(self, order: Order) -> str:
        """What was ordered."""
        return ", ".join(str(line) for line in OrderLine.objects.filter(order=order))


@admin.register(StockMovement)
class StockMovementAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """The ledger."""

    list_display = ["id", "sku", "kind", "delta", "order_id", "client", "reason", "created_at"]
    search_fields = ["=sku"]
    ordering = ["-id"]
    show_full_result_count = False


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """Who may call, and what for."""

    list_display = ["client", "scopes", "created_at", "revoked_at"]
    search_fields = ["client"]
