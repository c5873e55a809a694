"""Every address of the system. Those under /api and the operational ones are answered by `shop.web.application` itself."""

from typing import Any

from django.contrib import admin
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from shop.pages import live as live_page
from shop.pages import ordering, storefront, watching
from shop.pages import orders as order_pages
from shop.web import documentation, live, metrics, operations, orders, products

#: Views that `shop.web.application` calls with requests of their own kind (`shop.web.http`), not Django's.
_api: dict[str, Any] = {
    "api/v1/orders": orders.collection,
    "api/v1/orders/<uuid:order_id>": orders.detail,
    "api/v1/orders/<uuid:order_id>/cancel": orders.cancel,
    "api/v1/products": products.collection,
    "api/v1/products/<path:sku>/stock-movements": products.stock_movements,
    "api/v1/products/<path:sku>": products.detail,
    "api/openapi.json": documentation.openapi_json,
    "api/docs": documentation.docs,
    "api/problems/<slug:slug>": documentation.problem,
    f"api/{documentation.WHEEL}": documentation.client,
    "healthz": operations.healthz,
    "readyz": operations.readyz,
    "metrics": metrics.metrics,
    "live/figures": live.figures,
}

#: The same, for pages that are open.
_watched: dict[str, tuple[Any, str]] = {
    "watch/stock": (watching.stock, "watch stock"),
    "watch/orders/<uuid:order_id>": (watching.order, "watch order"),
}

urlpatterns = [
    *(path(route, view) for route, view in _api.items()),
    path("", storefront.products, name="shop"),
    path("products/<path:sku>", storefront.product, name="product"),
    path("basket", storefront.basket, name="basket"),
    path("orders", ordering.collection, name="orders"),
    path("orders/<uuid:order_id>", order_pages.order, name="order"),
    path("orders/<uuid:order_id>/cancel", order_pages.cancel, name="cancel"),
    path("orders/<uuid:order_id>/again", ordering.again, name="again"),
    *(path(route, view, name=name) for route, (view, name) in _watched.items()),
    path("favicon.ico", RedirectView.as_view(url=static("icon.svg"))),
    path("live", live_page.live),
    path("live/switch", live_page.switch),
    path("admin/", admin.site.urls),
]
