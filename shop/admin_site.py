"""The site that staff signs in to."""

import math
import time
from typing import Any, Final

import structlog
from django.conf import settings
from django.contrib.admin import AdminSite
from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse

from shop.web.sign_in import failures

log = structlog.get_logger()

_TOO_MANY: Final = (
    "Too many wrong passwords for this name from your address, so this one was not checked. "
    "Try again in {wait_s} seconds."
)


class SignInForm(AdminAuthenticationForm):
    """Django's form, which looks at no password while its name has to wait (`shop.web.sign_in`).

    `wait_s`: for how many more seconds, 0 where it does not.
    """

    wait_s = 0

    def clean(self) -> dict[str, Any]:
        """Check the password. Raises `ValidationError`."""
        name, address = self.cleaned_data.get("username", ""), self._address()
        self.wait_s = math.ceil(failures.wait_s(name, address, time.monotonic()))
        if self.wait_s:
            raise ValidationError(_TOO_MANY.format(wait_s=self.wait_s))
        try:
            cleaned: dict[str, Any] = super().clean()
        except ValidationError:
            failures.add(name, address, time.monotonic())
            if wait_s := failures.wait_s(name, address, time.monotonic()):
                log.warning("many wrong passwords", name=name, address=address, wait_s=round(wait_s))
            raise
        failures.forget(name, address)
        return cleaned

    def _address(self) -> str:
        return str(self.request.META.get("REMOTE_ADDR", "")) if self.request else ""


class OperatorsSite(AdminSite):
    """Django's admin site, which also knows the way to Flower, and makes guesses of passwords wait."""

    site_title = site_header = "Reserva"
    index_title = "Operations"
    login_form = SignInForm

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Django's, with 429 where no password was looked at."""
        response = super().login(request, extra_context)
        form = getattr(response, "context_data", {}).get("form")
        if wait_s := getattr(form, "wait_s", 0):
            response.status_code = 429
            response["Retry-After"] = str(wait_s)
        return response

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """What every page may show."""
        return {**super().each_context(request), "flower_url": settings.FLOWER_URL}
