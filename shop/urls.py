"""Every address of the system. Those under /api and the operational ones are answered by `shop.web.asgi` itself."""

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from shop.web import documentation, metrics, operations, orders, products

urlpatterns = [
    path("", RedirectView.as_view(url="/api/docs")),
    path("api/v1/orders", orders.collection),
    path("api/v1/orders/<uuid:order_id>", orders.detail),
    path("api/v1/orders/<uuid:order_id>/cancel", orders.cancel),
    path("api/v1/products", products.collection),
    path("api/v1/products/<path:sku>/stock-movements", products.stock_movements),
    path("api/v1/products/<path:sku>", products.detail),
    path("api/openapi.json", documentation.openapi_json),
    path("api/docs", documentation.docs),
    path("healthz", operations.healthz),
    path("readyz", operations.readyz),
    path("metrics", metrics.metrics),
    path("admin/", admin.site.urls),
]
