"""Lists that stay fast however much there is, of rows that nobody edits."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.db import connection
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse

#: Rows of a page.
PAGE = 50
_BETWEEN = "~"


class KeysetChangeList(ChangeList):
    """Pages by key: what follows this row, instead of "skip so many". The last page costs what the first one costs.

    Nothing is counted; how many rows there are PostgreSQL estimates. Lists have the one order that an index has.
    """

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """The list's own, whatever the address says."""
        return self.model_admin.ordering

    def get_results(self, request: HttpRequest) -> None:
        """The rows of the page, and where the next one begins."""
        ours: Any = self.model_admin
        queryset, after = self.queryset, request.GET.get(PAGE_VAR, "")
        if after:
            queryset = queryset.filter(beyond(self.model, ours.ordering, after))
        rows = ours.rows(queryset, self.query, PAGE + 1)
        self.next_page = key_of(rows[PAGE - 1], ours.ordering) if len(rows) > PAGE else ""
        self.result_list: Any = rows[:PAGE]
        ours.complete(self.result_list)
        self.first_page_link = self.get_query_string()
        self.next_page_link = self.get_query_string({PAGE_VAR: self.next_page})
        self.is_first_page = not after
        estimate = estimated_rows(self.model)
        self.estimate = estimate if estimate and estimate > len(self.result_list) else None
        self.title = str(self.opts.verbose_name_plural).capitalize()
        # What Django's templates ask for.
        self.result_count = self.full_result_count = len(self.result_list)
        self.show_full_result_count = self.show_admin_actions = False
        self.can_show_all = self.multi_page = False
        self.paginator = Paginator(self.result_list, PAGE)


def key_of(row: Model, ordering: Sequence[str]) -> str:
    """A row's place in the order, as the address of a page tells it."""
    values = [getattr(row, name.lstrip("-")) for name in ordering]
    return _BETWEEN.join(value.isoformat() if isinstance(value, datetime) else str(value) for value in values)


def beyond(model: type[Model], ordering: Sequence[str], key: str) -> Q:
    """The rows that come after a place, in an order by one field or two. Raises `IncorrectLookupParameters`."""
    names = [name.lstrip("-") for name in ordering]
    texts = key.split(_BETWEEN) if len(names) > 1 else [key]
    try:
        fields: list[Any] = [model._meta.get_field(name) for name in names]
        values = [field.to_python(text) for field, text in zip(fields, texts, strict=True)]
    except (ValidationError, ValueError) as error:
        raise IncorrectLookupParameters(str(error)) from error
    compare = "lt" if ordering[0].startswith("-") else "gt"
    first = Q(**{f"{names[0]}__{compare}": values[0]})
    if len(names) == 1:
        return first
    # The first condition is for the index, the second for rows that share its value.
    return Q(**{f"{names[0]}__{compare}e": values[0]}) & (first | Q(**{f"{names[1]}__{compare}": values[1]}))


def estimated_rows(model: type[Model]) -> int | None:
    """How many rows a table has, as PostgreSQL last saw it; None where it never looked."""
    with connection.cursor() as cursor:
        table = model._meta.db_table
        cursor.execute("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)", [table])
        (found,) = cursor.fetchone() or (-1,)
    return found if found >= 0 else None


class OperatorAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that only the system writes, in pages by key."""

    sortable_by = ()
    #: There is a search, and `rows` does it.
    search_fields: ClassVar[Any] = ("pk",)
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = PAGE

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Nobody adds rows by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits rows by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows by hand."""
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Pages by key."""
        return KeysetChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Searching is up to `rows`."""
        return queryset, False

    def rows(self, queryset: QuerySet[Any], term: str, limit: int) -> list[Any]:
        """The first rows of a list that was filtered and ordered, and that holds what is searched for."""
        raise NotImplementedError

    def complete(self, found: Sequence[Any]) -> None:
        """Add to the rows of a page what is not in their table, for all of them at once."""

    def may(self, request: HttpRequest, permission: str) -> bool:
        """Whether the user has one of the shop's permissions."""
        return bool(request.user.has_perm(f"shop.{permission}"))

    def insist_on(self, request: HttpRequest, permission: str) -> None:
        """Raises `PermissionDenied` (403) where the user may not."""
        if not self.may(request, permission):
            raise PermissionDenied

    def address_of(self, name: str, *arguments: Any) -> str:
        """The address of a page about this kind of thing: `changelist`, `change`, ..."""
        return reverse(f"{self.admin_site.name}:shop_{self.opts.model_name}_{name}", args=arguments)

    def back_to(self, address: str, request: HttpRequest, text: str, level: int) -> HttpResponseRedirect:
        """Another page, with a message on it."""
        messages.add_message(request, level, text)
        return HttpResponseRedirect(address)
