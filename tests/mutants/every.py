"""All mutants: those that are listed here, and the controls that run in `make test`, which are mutants too."""

import hashlib
import os
import random
import subprocess
from collections.abc import Sequence
from typing import Any, Final

import django

from tests.mutants import connections, decisions, pages, processes, reservations, scripts, upkeep
from tests.mutants.mutant import ROOT, Mutant
from tests.mutants.trial import files

LISTED: Final = tuple(
    mutant
    for group in (reservations, decisions, scripts, upkeep, processes, connections, pages)
    for mutant in group.MUTANTS
)

#: Those that left their test green once. They are tried with every `make test`.
PINNED: Final = (
    "PostgreSQL's constraint keeps a movement from what is confirmed",
    "who waits looks again when it may have missed something",
    "a call that meets an id that is taken takes nothing at a glance",
    "orders of one call share a lock",
    "counters are written by the thousand",
)

#: How many others `make test` tries.
SAMPLE: Final = 3


def all_mutants() -> list[Mutant]:
    """Every mutant: those listed, then the controls."""
    return [*LISTED, *_controls()]


def _controls() -> list[Mutant]:
    """The text controls of `tests/test_controls.py` and `tests/test_transport.py`."""
    if (
        "DJANGO_SETTINGS_MODULE" not in os.environ
    ):  # what the tests import reads settings, and connects to nothing
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "DATABASE_URL": "postgres://nobody@localhost/none",
            "REDIS_URL": "redis://localhost/0",
            "CELERY_BROKER_URL": "redis://localhost/0",
            "SECRET_KEY": "of a look at tests",
            "ORDER_ID_SECRET": "of a look at tests",
        }
        django.setup()
    from tests import test_controls, test_transport

    of_scripts = [_control(name, _where(where), *rest) for name, where, *rest in test_controls.CONTROLS]
    return of_scripts + [
        _control(name, f"workers/lua/{script}.lua", *rest) for name, script, *rest in test_transport.CONTROLS
    ]


def _where(where: str) -> str:
    if where == "decide":
        return "shop/migrations/0006_decide.sql"
    return f"shop/{where.rpartition('.')[2]}/{where}"


def _control(name: str, file: str, guard: str, instead: str, watch: Any) -> Mutant:
    test = getattr(watch, "func", watch)
    node = f"{test.__module__.replace('.', '/')}.py::{test.__name__}"
    return Mutant(name=name, file=file, text=guard, instead=instead, tests=(node,))


def sample() -> list[Mutant]:
    """What `make test` tries: the pinned ones, and a few that another commit chooses others of."""
    pinned = [mutant for mutant in LISTED if mutant.name in PINNED]
    others = [mutant for mutant in LISTED if mutant.name not in PINNED and not mutant.is_slow]
    return pinned + random.Random(_state()).sample(others, min(SAMPLE, len(others)))


def _state() -> str:
    """The commit; without git, a digest of all files."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        return head.stdout.strip()
    digest = hashlib.sha256()
    for path in files():
        digest.update((ROOT / path).read_bytes())
    return digest.hexdigest()


def chosen(only: Sequence[str]) -> list[Mutant]:
    """Those whose name, promise, file or test holds one of these words; all without a word."""
    return [
        mutant
        for mutant in all_mutants()
        if not only
        or any(
            word in text
            for word in only
            for text in (mutant.name, mutant.promise, mutant.file, *mutant.tests)
        )
    ]
