"""Who of the staff did what."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db.models import QuerySet

from shop.admin.listing import OperatorAdmin
from shop.models import PauseChange


@admin.register(LogEntry)
class LogEntryAdmin(OperatorAdmin):
    """What staff did, the latest first."""

    list_display = ("action_time", "user", "content_type", "object_repr", "done")
    list_display_links = None
    list_select_related = ("user", "content_type")
    ordering = ("-id",)
    search_help_text = "The name of somebody of the staff, or the id of a thing: an order, a SKU."

    def rows(self, queryset: QuerySet[Any], term: str, limit: int) -> list[Any]:
        """Those of a person or a thing, if one is searched for."""
        if term:
            queryset = queryset.filter(user__username=term) | queryset.filter(object_id=term)
        return list(queryset[:limit])

    @admin.display(description="what was done")
    def done(self, entry: LogEntry) -> str:
        """The message, in words."""
        return entry.get_change_message() or entry.get_action_flag_display()


@admin.register(PauseChange)
class PauseChangeAdmin(OperatorAdmin):
    """Who paused what, and went on with it, the latest first."""

    list_display = ("at", "part", "is_paused", "who", "reason")
    list_display_links = None
    ordering = ("-id",)
    search_fields = ()

    def rows(self, queryset: QuerySet[Any], term: str, limit: int) -> list[Any]:
        """All of them."""
        return list(queryset[:limit])
