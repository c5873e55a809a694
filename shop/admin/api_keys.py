"""API keys: made and shown once, and ended."""

import secrets
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString

from shop import clients
from shop.admin.listing import OperatorAdmin
from shop.models import ApiKey
from shop.stores import StoreUnavailable

#: For so long a form that has made a key is remembered.
FORM_LIFETIME_S = 86_400


def _refuse_name(client: str) -> None:
    if refusal := clients.name_refusal(client):
        raise ValidationError(refusal)


class ApiKeyForm(forms.Form):
    """A new key. `form`: the form's own name, so that it makes one key however often it is sent."""

    required_css_class = "required"
    client = forms.CharField(
        label="Client",
        validators=[_refuse_name],
        help_text="Who owns the orders made with the key. A client may have several keys.",
    )
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in clients.SCOPES],
        initial=["orders"],
        widget=forms.CheckboxSelectMultiple,
        help_text="orders: place, read and cancel its own orders. stock: move stock.",
    )
    form = forms.CharField(widget=forms.HiddenInput, max_length=64)


@admin.register(ApiKey)
class ApiKeyAdmin(OperatorAdmin):
    """Who may call, and what for. Keys themselves are stored nowhere."""

    list_display = ("name", "allowed", "created_at", "revoked_at")
    list_display_links = None
    ordering = ("-created_at", "-digest")
    search_help_text = "A client, exactly."

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Making a key is no editing: it goes its own way."""
        return self.may(request, "add_apikey")

    def get_urls(self) -> list[URLPattern]:
        """Pages of our own before Django's, which take any text for an id."""
        view = self.admin_site.admin_view
        return [
            path("add/", view(self.create_view), name="shop_apikey_add"),
            path("<str:digest>/revoke/", view(self.revoke_view), name="shop_apikey_revoke"),
            *super().get_urls(),
        ]

    def rows(self, queryset: QuerySet[Any], term: str, limit: int) -> list[Any]:
        """Those of a client, if one is searched for."""
        return list((queryset.filter(client=term) if term else queryset)[:limit])

    def get_list_display(self, request: HttpRequest) -> Any:
        """With the way to end a key for whoever may."""
        return (*self.list_display, *(["ending"] if self.may(request, "change_apikey") else []))

    @admin.display(description="client")
    def name(self, key: ApiKey) -> str:
        """Client, and the beginning of the key's digest, which tells a client's keys apart."""
        return f"{key.client} ({key.digest[:8]})"

    @admin.display(description="scopes")
    def allowed(self, key: ApiKey) -> str:
        """What it may do."""
        return ", ".join(key.scopes)

    @admin.display(description="")
    def ending(self, key: ApiKey) -> SafeString | str:
        """The way to end it."""
        if key.revoked_at is not None:
            return ""
        return format_html('<a href="{}">Revoke</a>', self.address_of("revoke", key.digest))

    def create_view(self, request: HttpRequest) -> HttpResponse:
        """Make a key and show it, this once."""
        self.insist_on(request, "add_apikey")
        form = ApiKeyForm(request.POST or None, initial={"form": secrets.token_urlsafe(16)})
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "New API key",
            "form": form,
        }
        if request.method != "POST" or not form.is_valid():
            status = 422 if form.errors else 200
            return TemplateResponse(request, "admin/shop/apikey/create.html", context, status=status)
        there = self.address_of("changelist")
        asked = form.cleaned_data
        is_first = cache.add(f"api-key-form:{asked['form']}", "sent", FORM_LIFETIME_S)
        if is_first is None:
            return self.back_to(there, request, "No key was made: Redis is away. Try again.", messages.ERROR)
        if not is_first:
            text = "That form has made a key before. If you have not seen it, revoke it and make another one."
            return self.back_to(there, request, text, messages.WARNING)
        context["api_key"] = clients.create_key(asked["client"], asked["scopes"])
        made = ApiKey.objects.get(digest=clients.digest(context["api_key"]))
        self.log_addition(request, made, f"Made a key for {made}.")
        return TemplateResponse(request, "admin/shop/apikey/created.html", context | {"made": made})

    def revoke_view(self, request: HttpRequest, digest: str) -> HttpResponse:
        """GET asks whether the key is meant, POST ends it."""
        self.insist_on(request, "change_apikey")
        there = self.address_of("changelist")
        key = ApiKey.objects.filter(digest=digest).first()
        if key is None:
            return self.back_to(there, request, "There is no such key.", messages.WARNING)
        if request.method != "POST":
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": "Revoke this key?",
                "key": key,
            }
            return TemplateResponse(request, "admin/shop/apikey/revoke.html", context)
        try:
            is_ended = clients.revoke_key(digest)
        except StoreUnavailable as away:
            return self.back_to(there, request, f"Nothing was revoked, try again: {away}", messages.ERROR)
        if not is_ended:
            return self.back_to(there, request, "The key had ended before.", messages.INFO)
        self.log_change(request, key, "Revoked.")
        return self.back_to(there, request, f"The key of {key.client} has ended.", messages.SUCCESS)
