"""Django's handle on the shop."""

import structlog
from django.apps import AppConfig
from django.conf import settings
from django.contrib.admin import apps as admin_apps
from django.core import checks

log = structlog.get_logger()


class ShopConfig(AppConfig):
    """The one Django app of the project."""

    name = "shop"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """In every process, as soon as it can log."""
        from shop import fail_points, tracing  # noqa: PLC0415 - logs are set up by now

        if settings.SENTRY_DSN:
            _report_errors(settings.SENTRY_DSN)
        tracing.warn_if_missing()
        fail_points.warn_if_armed()
        checks.register(fail_points.check_unarmed, checks.Tags.security, deploy=True)


def _report_errors(dsn: str) -> None:
    """To Sentry. The variable may be set for all of a platform: no reason to take no orders."""
    try:
        from shop import error_reports  # noqa: PLC0415 - an extra that few install
    except ModuleNotFoundError:
        log.warning("no error reports: SENTRY_DSN is set, and the extra `sentry` is not installed")
    else:
        error_reports.start(dsn)


class OperatorsAdminConfig(admin_apps.AdminConfig):
    """Django's admin with a site of our own."""

    default = False  # of the two configurations in this module

    default_site = "shop.admin_site.OperatorsSite"
