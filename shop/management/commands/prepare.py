"""What `up` does between the databases and the web tier, in a process of its own that has all settings."""

import json
import os
import secrets
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, CommandError, CommandParser, call_command

from shop import postgres_permissions, redis_permissions
from shop.clients import SCOPES, create_key, digest, publish_keys
from shop.intake import derived_id
from shop.models import ApiKey, Product
from shop.redis_permissions import Process

CLIENT = "demo"


class Command(BaseCommand):
    """Migrate; in a new database make an API key, a staff user and a sample catalogue, too. Safe to repeat."""

    help = (
        "Migrate, and make a new database ready to be tried: an API key, a staff user, a sample catalogue."
        " Prints JSON: the API key, and an idempotency key with the order id that it stands for. Used by `up`;"
        " reads the API key of the last time, if any, from DEMO_API_KEY and the staff user's password from"
        " STAFF_PASSWORD."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Name the staff user."""
        parser.add_argument("--staff-user", default="operator")

    def handle(self, *_: Any, staff_user: str, **__: Any) -> None:
        """Print what the caller has to know. Raises CommandError where a store refuses what its processes need."""
        _insist(redis_permissions.refused)
        call_command("migrate", verbosity=0)
        _insist(postgres_permissions.lacking)
        publish_keys()
        api_key = os.environ.get("DEMO_API_KEY", "")
        if not ApiKey.objects.filter(digest=digest(api_key), revoked_at=None).exists():
            api_key = create_key(CLIENT, SCOPES)
            _make_staff(staff_user, os.environ["STAFF_PASSWORD"])
        if not Product.objects.exists():
            catalogue = settings.BASE_DIR / "shop" / "sample_catalogue.csv"
            call_command("load_catalogue", str(catalogue), stdout=self.stderr)
        sample_key = f"first-{secrets.token_hex(6)}"
        sample_order = derived_id("order", CLIENT, sample_key)
        answer = {"api_key": api_key, "sample_key": sample_key, "sample_order": sample_order}
        self.stdout.write(json.dumps(answer))


def _insist(problems: Callable[[Process], list[str]]) -> None:
    found = dict.fromkeys(problem for process in Process for problem in problems(process))
    if found:
        raise CommandError("\n".join(found))


def _make_staff(name: str, password: str) -> None:
    """The password is always the one that the caller shows, also for a user that exists."""
    user, _ = get_user_model().objects.get_or_create(username=name)
    user.is_staff = user.is_superuser = True
    user.set_password(password)
    user.save()
