"""Django's own list of what a production system must not leave open."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.ports import free_port

ROOT = Path(__file__).parent.parent
#: What `.env.example` tells whoever serves people over TLS to set; the secrets are as long as those that are made.
PRODUCTION = {
    "HTTPS": "true",
    "DEBUG": "false",
    "ALLOWED_HOSTS": "shop.example.com",
    "SECRET_KEY": "k9-" * 22 + "Zq",
}


def warnings(**changes: str) -> str:
    """What `manage.py check --deploy` has to say; it fails where that is a warning or worse."""
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        env=os.environ | PRODUCTION | changes,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("database", ["there", "away"])
def test_a_production_configuration_passes_django_s_deployment_check(database: str) -> None:
    address = {"there": {}, "away": {"DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere"}}

    assert warnings(**address[database]) == ""


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"HTTPS": "false"}, "security.W004"),
        ({"DEBUG": "true"}, "security.W018"),
        ({"SECRET_KEY": "x"}, "security.W009"),
    ],
)
def test_a_protection_that_is_left_off_is_told(changes: dict[str, str], code: str) -> None:
    assert code in warnings(**changes)


@pytest.mark.parametrize("lines", ["0", "3001"])
def test_more_lines_in_an_order_than_scripts_can_take_are_refused_by_name(lines: str) -> None:
    assert f"MAX_ORDER_LINES must be from 1 to 3000, and is {lines}" in warnings(MAX_ORDER_LINES=lines)
