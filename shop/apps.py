"""Django's handle on the shop."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """The one Django app of the project."""

    name = "shop"
    default_auto_field = "django.db.models.BigAutoField"
