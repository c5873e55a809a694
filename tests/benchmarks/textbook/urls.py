"""The textbook shop's addresses."""

from django.urls import path

from tests.benchmarks.textbook import views

urlpatterns = [path("orders", views.place), path("orders/<uuid:order_id>", views.status)]
