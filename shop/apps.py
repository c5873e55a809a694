"""Django's handle on the shop."""

from django.apps import AppConfig
from django.conf import settings
from django.contrib.admin import apps as admin_apps
from django.core import checks


class ShopConfig(AppConfig):
    """The one Django app of the project."""

    name = "shop"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """In every process, as soon as it can log."""
        from shop import fail_points, tracing  # noqa: PLC0415 - logs are set up by now

        if settings.SENTRY_DSN:
            from shop import error_reports  # noqa: PLC0415 - an extra that few install

            error_reports.start(settings.SENTRY_DSN)
        tracing.warn_if_missing()
        fail_points.warn_if_armed()
        checks.register(fail_points.check_unarmed, checks.Tags.security, deploy=True)


class OperatorsAdminConfig(admin_apps.AdminConfig):
    """Django's admin with a site of our own."""

    default = False  # of the two configurations in this module

    default_site = "shop.admin_site.OperatorsSite"
