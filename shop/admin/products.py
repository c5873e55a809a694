"""Products with their stock in both stores, and moving it."""

import uuid
from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from shop import movements, stock
from shop.admin.listing import OperatorAdmin
from shop.domain import TEXT_MAX_LENGTH, is_text
from shop.intake import derived_id, ids_before
from shop.models import Product, StockMovement
from shop.movements import Insufficient, KeyReused, Movement, UnknownSku
from shop.stores import StoreUnavailable, web_thread_redis
from shop.web.schemas import STOCK_DELTA_MAX

LATEST_MOVEMENTS = 20


class MovementForm(forms.Form):
    """A movement of stock by hand. `key`: made with the form, so that a form sent twice moves stock once."""

    required_css_class = "required"
    delta = forms.IntegerField(
        min_value=-STOCK_DELTA_MAX,
        max_value=STOCK_DELTA_MAX,
        label="Units",
        help_text="What comes in, or with a minus what goes out. Units that are promised cannot be taken.",
    )
    reason = forms.CharField(
        max_length=TEXT_MAX_LENGTH,
        label="Reason",
        help_text="It stays in the ledger for ever.",
        widget=forms.TextInput(attrs={"class": "vTextField"}),
    )
    key = forms.UUIDField(widget=forms.HiddenInput)

    def clean_delta(self) -> int:
        """Not zero."""
        delta: int = self.cleaned_data["delta"]
        if delta == 0:
            raise ValidationError("A movement of nothing is none.")
        return delta

    def clean_reason(self) -> str:
        """What the API would take."""
        reason: str = self.cleaned_data["reason"]
        if not is_text(reason):
            raise ValidationError("One line of text, without control characters.")
        return reason


@admin.register(Product)
class ProductAdmin(OperatorAdmin):
    """Products by SKU, with what each store says of their stock."""

    list_display = (
        "sku", "name", "price", "on_sale", "confirmed", "free_in_books", "free_in_redis", "versions",
    )  # fmt: skip
    list_display_links = ("sku",)
    ordering = ("sku",)
    search_help_text = "A part of a SKU or of a name."

    def get_urls(self) -> list[URLPattern]:
        """Pages of our own before Django's, which take any text for an id."""
        view = self.admin_site.admin_view
        return [
            path("<path:sku>/move/", view(self.move_view), name="shop_product_move"),
            path("<path:sku>/change/", view(self.product_view), name="shop_product_stock"),
            *super().get_urls(),
        ]

    def rows(self, queryset: QuerySet[Any], term: str, limit: int) -> list[Any]:
        """Those whose SKU or name holds the term."""
        if term:
            # SKUs are case-sensitive; most are in capitals, which few type.
            of_sku = Q(sku__contains=term) | Q(sku__contains=term.upper())
            queryset = queryset.filter(of_sku | Q(name__icontains=term))
        return list(queryset[:limit])

    def complete(self, found: Sequence[Any]) -> None:
        """What Redis says of them."""
        try:
            seen = stock.seen(web_thread_redis(), [product.sku for product in found]) if found else {}
        except StoreUnavailable:
            seen = {}
        for product in found:
            product.seen = seen.get(product.sku)

    @admin.display(description="free (PostgreSQL)")
    def free_in_books(self, product: Any) -> int:
        """Units that are in no confirmed order."""
        return int(product.on_sale - product.confirmed)

    @admin.display(description="free (Redis)")
    def free_in_redis(self, product: Any) -> int | str:
        """Units that can be ordered this moment."""
        if product.seen is None:
            return "away"
        return "no counter" if product.seen.free is None else product.seen.free

    @admin.display(description="version (PostgreSQL / Redis)")
    def versions(self, product: Any) -> str:
        """Of its counters: where Redis has an older one it follows."""
        behind = product.seen.version if product.seen else None
        return f"{product.version} / {'-' if behind is None else behind}"

    def product_view(self, request: HttpRequest, sku: str) -> HttpResponse:
        """A product with its stock and its latest movements. Nothing of it can be edited."""
        self.insist_on(request, "view_product")
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        return self._page(request, unquote(sku), MovementForm(initial={"key": uuid.uuid4()}))

    def move_view(self, request: HttpRequest, sku: str) -> HttpResponse:
        """Move stock, as the API does: the same form sent twice moves it once."""
        self.insist_on(request, "add_stockmovement")
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        sku, form = unquote(sku), MovementForm(request.POST)
        if not form.is_valid():
            return self._page(request, sku, form)
        try:
            return self._told(request, sku, form, self._moved(request, sku, form.cleaned_data))
        except StoreUnavailable as away:
            form.add_error(None, f"Nothing can be said of it; send it again: {away}")
            return self._page(request, sku, form)

    def _told(
        self, request: HttpRequest, sku: str, form: MovementForm, outcome: movements.Outcome
    ) -> HttpResponse:
        there = self.address_of("stock", quote(sku))
        match outcome:
            case Movement(delta=delta, reason=reason, available=available, fresh=True):
                self.log_change(request, Product(sku=sku), f"Moved {delta:+d} units: {reason}")
                text = f"{delta:+d} units of {sku}; {available} are free."
                return self.back_to(there, request, text, messages.SUCCESS)
            case Movement():
                text = "This form was sent before: stock was moved once, by the first time."
                return self.back_to(there, request, text, messages.INFO)
            case Insufficient(available):
                form.add_error("delta", f"Only {available} units are free to be taken.")
            case KeyReused():
                form.add_error(None, "This form was sent before, with something else in it. Open it anew.")
            case UnknownSku():
                return self._unknown(request, sku)
        return self._page(request, sku, form)

    def _moved(self, request: HttpRequest, sku: str, asked: dict[str, Any]) -> movements.Outcome:
        # No API client's name holds a colon, so nobody's keys meet these.
        by = f"staff:{request.user.get_username()}"[: StockMovement._meta.get_field("client").max_length]
        of_key = ("stock movement", by, str(asked["key"]))
        return movements.move(
            client=web_thread_redis(),
            request=derived_id(*of_key),
            ids_before=ids_before(*of_key),
            by=by,
            sku=sku,
            delta=asked["delta"],
            reason=asked["reason"],
        )

    def _page(self, request: HttpRequest, sku: str, form: MovementForm) -> HttpResponse:
        product: Any = Product.objects.filter(sku=sku).first() if "\0" not in sku else None
        if product is None:
            return self._unknown(request, sku)
        self.complete([product])
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": sku,
            "subtitle": product.name,
            "product": product,
            "figures": self._figures(product),
            "movements": StockMovement.objects.filter(sku=sku).order_by("-id")[:LATEST_MOVEMENTS],
            "form": form,
            "move_url": self.address_of("move", quote(sku)),
            "may_move": self.may(request, "add_stockmovement"),
        }
        status = 422 if form.errors else 200
        return TemplateResponse(request, "admin/shop/product/stock.html", context, status=status)

    def _figures(self, product: Any) -> list[tuple[str, Any]]:
        locked = f"by order {product.seen.holder}" if product.seen and product.seen.holder else "no"
        return [
            ("On sale so far (PostgreSQL)", product.on_sale),
            ("In confirmed orders (PostgreSQL)", product.confirmed),
            ("Free (PostgreSQL)", self.free_in_books(product)),
            ("Free (Redis)", self.free_in_redis(product)),
            ("Returned by cancellations so far", product.returned),
            ("Version of the counters (PostgreSQL / Redis)", self.versions(product)),
            ("Locked", locked),
        ]

    def _unknown(self, request: HttpRequest, sku: str) -> HttpResponseRedirect:
        return self.back_to(
            self.address_of("changelist"), request, f"There is no product {sku}.", messages.WARNING
        )
