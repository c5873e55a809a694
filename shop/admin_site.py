"""The site that staff signs in to."""

from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.http import HttpRequest


class OperatorsSite(AdminSite):
    """Django's admin site, which also knows the way to Flower."""

    site_title = site_header = "Reserva"
    index_title = "Operations"

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """What every page may show."""
        return {**super().each_context(request), "flower_url": settings.FLOWER_URL}
